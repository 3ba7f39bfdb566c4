//! Several residual streams of which a layer computes one and corrects the others (gemma3n).

use super::prologue::PerLayerInputs;
use crate::Result;
use crate::blueprint::{self, AltUp as Spec, AltUpLayer as LayerSpec, LayerInput as InputSpec};
use crate::cache::Cache;
use crate::parts::{Block, Ffn, Mixer, Norm, Prologue, Registry, Step};
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array, Dtype};
use std::f32::consts::FRAC_1_SQRT_2;

pub(super) fn register(r: &mut Registry) {
    r.prologue(AltUp::load);
    r.block(Layer::load);
}

/// Makes the streams [S, B, L, D], and their mean in the end.
#[derive(Module)]
struct AltUp {
    inputs: Leaf<PerLayerInputs>,
    project: Vec<Leaf<Linear>>,
    unembed: Vec<Leaf<Linear>>,
}

impl AltUp {
    fn load(s: &Spec, leaves: &Leaves) -> Result<AltUp> {
        let d = s.inputs.hidden;
        let all = |name: &str| {
            (0..s.streams - 1)
                .map(|i| leaves.linear(&format!("{}.{name}.{i}", s.inputs.path), d, d, false))
                .collect::<Result<Vec<_>>>()
        };
        Ok(AltUp {
            inputs: Leaf::new("", PerLayerInputs::load(&s.inputs, leaves)?),
            project: all("altup_projections")?,
            unembed: all("altup_unembed_projections")?,
        })
    }
}

fn magnitude(x: &Array) -> Array {
    x.square().mean_keepdims(-1).sqrt()
}

/// x with the magnitude of `like`.
fn rescaled(x: &Array, like: &Array) -> Array {
    x * (like / magnitude(x))
}

impl Prologue for AltUp {
    fn before(&self, h: Array, step: &Step, _: Option<&mut dyn Cache>) -> Array {
        let h = self.inputs.before(h, step, None);
        let size = magnitude(&h);
        let others = self.project.iter().map(|p| rescaled(&p.forward(&h), &size));
        mx::stack(&std::iter::once(h.clone()).chain(others).collect::<Vec<_>>(), 0)
    }

    fn after(&self, h: Array, _: &Step) -> Array {
        let stream = |i: i32| h.slice_axis(0, i..i + 1).squeeze(0);
        let first = stream(0);
        let size = magnitude(&first);
        let mut sum = first;
        for (i, p) in self.unembed.iter().enumerate() {
            sum = sum + rescaled(&p.forward(&stream(i as i32 + 1)), &size);
        }
        sum / (self.unembed.len() + 1) as f32
    }
}

/// One layer: predicts all streams, computes the active one, corrects all by its error.
#[derive(Module)]
struct Layer {
    input_norm: Leaf<Norm>,
    attention: Leaf<Box<dyn Mixer>>,
    post_attention_norm: Leaf<Norm>,
    pre_ffn_norm: Leaf<Norm>,
    mlp: Leaf<Box<dyn Ffn>>,
    post_ffn_norm: Leaf<Norm>,
    output_scale: Leaf<Param>,
    correction: Leaf<Param>,
    prediction: Leaf<Param>,
    router: Leaf<Linear>,
    router_norm: Leaf<Norm>,
    laurel_left: Leaf<Linear>,
    laurel_right: Leaf<Linear>,
    laurel_norm: Leaf<Norm>,
    layer_input: Leaf<Box<dyn Ffn>>,
    post_input_norm: Leaf<Norm>,
    #[module(skip)]
    spec: LayerSpec,
}

impl Layer {
    fn load(s: &LayerSpec, leaves: &Leaves, r: &Registry) -> Result<Layer> {
        let (d, n) = (s.altup.inputs.hidden, s.altup.streams);
        let norm = |name: &str| Norm::load(leaves, name, &blueprint::Norm::rms(s.altup.inputs.eps), &[d]);
        let input = InputSpec { hidden: d, width: s.altup.inputs.width, index: s.index };
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: Leaf::new("self_attn", r.build_mixer(&s.attention, &leaves.at("self_attn"))?),
            post_attention_norm: norm("post_attention_layernorm")?,
            pre_ffn_norm: norm("pre_feedforward_layernorm")?,
            mlp: Leaf::new("mlp", r.build_ffn(&s.mlp, &leaves.at("mlp"))?),
            post_ffn_norm: norm("post_feedforward_layernorm")?,
            output_scale: leaves.param("altup.correct_output_scale", &[d])?,
            correction: leaves.param("altup.correction_coefs.weight", &[n, n])?,
            prediction: leaves.param("altup.prediction_coefs.weight", &[n * n, n])?,
            router: leaves.linear("altup.modality_router", d, n, false)?,
            router_norm: norm("altup.router_norm")?,
            laurel_left: leaves.linear("laurel.linear_left", d, s.laurel_rank, false)?,
            laurel_right: leaves.linear("laurel.linear_right", s.laurel_rank, d, false)?,
            laurel_norm: norm("laurel.post_laurel_norm")?,
            layer_input: Leaf::new("", r.build_ffn(&input, leaves)?),
            post_input_norm: norm("post_per_layer_input_norm")?,
            spec: s.clone(),
        })
    }

    /// Mixing weights in float32 for x [B, L, D]: [B, L, rows].
    fn coefficients(&self, x: &Array, weight: &Array) -> Array {
        let seen = self.router_norm.forward(x) / self.spec.altup.inputs.hidden as f32;
        let modes = self.router.forward(&seen).astype(Dtype::Float32).tanh();
        let weight = weight.astype(Dtype::Float32);
        let weight = match self.spec.altup.coef_clip {
            Some(c) => mx::clip(&weight, Some(-c), Some(c)),
            None => weight,
        };
        modes.matmul(&weight.t())
    }

    fn active(&self, streams: &Array) -> Array {
        let a = self.spec.altup.active;
        streams.slice_axis(0, a..a + 1).squeeze(0)
    }

    /// Every stream from all of them.
    fn predict(&self, x: &Array) -> Array {
        let n = self.spec.altup.streams;
        let mix = self.coefficients(&self.active(x), self.prediction.value());
        let mix = mix.unflatten(-1, [n, n]).transpose([0, 1, 3, 2]);
        let wide = x.astype(Dtype::Float32);
        let mixed = wide.transpose([1, 2, 3, 0]).matmul(&mix).transpose([3, 0, 1, 2]);
        (mixed + wide).astype(x.dtype())
    }

    /// Every stream moved by its share of what the active one's prediction missed.
    fn correct(&self, predicted: &Array, active: &Array, computed: &Array) -> Array {
        let shares = self.coefficients(computed, self.correction.value()) + 1.0;
        let missed = (computed - active).expand_dims(0);
        (missed * shares.moveaxis(2, 0).expand_dims(-1) + predicted).astype(computed.dtype())
    }
}

impl Block for Layer {
    fn forward(&self, x: Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let predicted = self.predict(&x);
        let active = self.active(&predicted);
        let normed = self.input_norm.forward(&active);
        let low = self.laurel_right.forward(&self.laurel_left.forward(&normed));
        let laurel = &normed + self.laurel_norm.forward(&low);
        let attended = self.post_attention_norm.forward(&self.attention.forward(&normed, step, cache));
        let h = (&active + attended + laurel) * FRAC_1_SQRT_2;
        let ffn = self.mlp.forward(&self.pre_ffn_norm.forward(&h), step);
        let computed = h + self.post_ffn_norm.forward(&ffn);
        let corrected = self.correct(&predicted, &active, &computed);

        let mut first = self.active(&corrected);
        if self.spec.altup.correct_scale {
            first = &first * self.output_scale.value();
        }
        let more = self.post_input_norm.forward(&self.layer_input.forward(&first, step)).expand_dims(0);
        let streams = self.spec.altup.streams;
        let others = corrected.slice_axis(0, 1..streams) + more;
        mx::concatenate(&[corrected.slice_axis(0, 0..1), others], 0)
    }
}
