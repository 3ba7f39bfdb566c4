//! Several residual streams that layers read and write by learned mixes (deepseek_v41).

use crate::Result;
use crate::blueprint::{HyperLayer as Spec, HyperStreams};
use crate::cache::Cache;
use crate::parts::{Block, Ffn, Mixer, Norm, Prologue, Registry, Step};
use crate::weights::Leaves;
use mlx::nn::{Leaf, Module, Param};
use mlx::{self as mx, Array, Dtype};

pub(super) fn register(r: &mut Registry) {
    r.prologue(|s: &HyperStreams, _| Ok(Streams { count: s.streams }));
    r.block(Layer::load);
}

/// How the next reader mixes the streams: [B, L, n] in float32.
const MIX: &str = "mix of streams";

/// streams [B, L, n, D] by a mix [B, L, n] to [B, L, D].
fn collapse(streams: &Array, mix: &Array) -> Array {
    (mix.expand_dims(-1) * streams.astype(Dtype::Float32)).sum(2).astype(streams.dtype())
}

#[derive(Module)]
struct Streams {
    #[module(skip)]
    count: i32,
}

impl Prologue for Streams {
    /// The same embedding in all streams; the first layer reads one.
    fn before(&self, h: Array, step: &Step, _: Option<&mut dyn Cache>) -> Array {
        let ([b, l, d], n) = (h.dims(), self.count);
        let one = mx::arange(0, n, 1, None).eq(0).astype(Dtype::Float32);
        step.put(MIX, mx::broadcast_to(&one, [b, l, n]));
        mx::broadcast_to(&h.expand_dims(2), [b, l, n, d])
    }

    fn after(&self, h: Array, step: &Step) -> Array {
        let Some(mix) = step.get(MIX) else { unreachable!("left before the layers") };
        collapse(&h, &mix)
    }
}

/// From the streams: how the sublayer after the next one reads them, how a sublayer's output is written to each, how they
/// mix among themselves.
struct Mixes {
    read: Array,
    write: Array,
    among: Array,
}

#[derive(Module)]
struct Connection {
    weight: Leaf<Param>,
    base: Leaf<Param>,
    scale: Leaf<Param>,
    #[module(skip)]
    spec: Spec,
}

impl Connection {
    fn load(s: &Spec, leaves: &Leaves) -> Result<Connection> {
        let mixes = (2 + s.streams) * s.streams;
        Ok(Connection {
            weight: leaves.param("fn", &[mixes, s.streams * s.hidden])?,
            base: leaves.param("base", &[mixes])?,
            scale: leaves.param("scale", &[3])?,
            spec: s.clone(),
        })
    }

    fn mixes(&self, streams: &Array) -> Mixes {
        let (n, eps) = (self.spec.streams, self.spec.eps);
        let flat = streams.flatten(2, 3).astype(Dtype::Float32);
        let logits = mx::fast::rms_norm(&flat, None, self.spec.norm.eps).matmul(&self.weight.t());
        // one scale for all of reads, of writes, of the mixes among streams
        let parts = logits.split_at(&[n, 2 * n], -1);
        let part = |i: i32| {
            let columns = [0, n, 2 * n, (2 + n) * n];
            let base = self.base.slice_axis(0, columns[i as usize]..columns[i as usize + 1]);
            &parts[i as usize] * self.scale.slice_axis(0, i..i + 1) + base
        };
        let mut among = mx::softmax(&part(2).unflatten(-1, [n, n]), -1) + eps;
        among = &among / (among.sum_keepdims(-2) + eps);
        for _ in 1..self.spec.rounds {
            among = &among / (among.sum_keepdims(-1) + eps);
            among = &among / (among.sum_keepdims(-2) + eps);
        }
        Mixes { read: part(0).sigmoid() + eps, write: part(1).sigmoid() * 2.0, among }
    }
}

impl Mixes {
    /// The streams after a sublayer that gave y [B, L, D].
    fn apply(&self, y: &Array, streams: &Array) -> Array {
        // stream j gets the sum over i of among[i][j] * stream i
        let mixed = (self.among.expand_dims(-1) * streams.expand_dims(3)).sum(2);
        (self.write.expand_dims(-1) * y.expand_dims(2) + mixed).astype(streams.dtype())
    }
}

#[derive(Module)]
struct Layer {
    input_norm: Leaf<Norm>,
    mixer: Leaf<Box<dyn Mixer>>,
    post_norm: Leaf<Norm>,
    ffn: Leaf<Box<dyn Ffn>>,
    around_mixer: Leaf<Connection>,
    around_ffn: Leaf<Connection>,
}

impl Layer {
    fn load(s: &Spec, leaves: &Leaves, r: &Registry) -> Result<Layer> {
        let norm = |name: &str| Norm::load(leaves, name, &s.norm, &[s.hidden]);
        let connection = |name: &str| Connection::load(s, &leaves.at(name)).map(|c| Leaf::new(name, c));
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            mixer: Leaf::new("self_attn", r.build_mixer(s.mixer.as_ref(), &leaves.at("self_attn"))?),
            post_norm: norm("post_attention_layernorm")?,
            ffn: Leaf::new("mlp", r.build_ffn(s.ffn.as_ref(), &leaves.at("mlp"))?),
            around_mixer: connection("attn_hc")?,
            around_ffn: connection("ffn_hc")?,
        })
    }
}

impl Block for Layer {
    fn forward(&self, streams: Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let Some(read) = step.get(MIX) else { panic!("no part of this model makes residual streams") };
        let mixes = self.around_mixer.mixes(&streams);
        let y = self.mixer.forward(&self.input_norm.forward(&collapse(&streams, &read)), step, cache);
        let streams = mixes.apply(&y, &streams);

        let next = self.around_ffn.mixes(&streams);
        let y = self.ffn.forward(&self.post_norm.forward(&collapse(&streams, &mixes.read)), step);
        step.put(MIX, next.read.clone());
        next.apply(&y, &streams)
    }
}
