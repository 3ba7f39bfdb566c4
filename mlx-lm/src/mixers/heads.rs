//! Both ends of a linear-attention layer: projections into heads, and from heads to the layer's output.

use super::conv::CausalConv;
use super::delta::{Matrices, projection, through};
use crate::Result;
use crate::blueprint::{HeadGate, HeadOutput, LinearHeads, Norm as NormSpec, Projection};
use crate::cache::Slots;
use crate::parts::Norm;
use crate::weights::Leaves;
use mlx::nn::{self, Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

/// [`LinearHeads`] with its weights.
#[derive(Module)]
pub struct Projections {
    q_proj: Leaf<Linear>,
    k_proj: Leaf<Linear>,
    v_proj: Leaf<Linear>,
    convs: Option<[Leaf<CausalConv>; 3]>,
    #[module(skip)]
    spec: LinearHeads,
}

impl Projections {
    pub fn load(s: &LinearHeads, leaves: &Leaves) -> Result<Leaf<Projections>> {
        let (q, k, v) = (s.heads * s.key_dim, s.kv_heads * s.key_dim, s.kv_heads * s.value_dim);
        let conv = |name: &str, channels: i32, c: &crate::blueprint::ShortConvs| {
            CausalConv::load(leaves, name, channels, c.taps, c.bias)
        };
        let convs = match &s.conv {
            None => None,
            Some(c) => Some([conv("q_conv1d", q, c)?, conv("k_conv1d", k, c)?, conv("v_conv1d", v, c)?]),
        };
        let projections = Projections {
            q_proj: leaves.linear("q_proj", s.hidden, q, false)?,
            k_proj: leaves.linear("k_proj", s.hidden, k, false)?,
            v_proj: leaves.linear("v_proj", s.hidden, v, false)?,
            convs,
            spec: s.clone(),
        };
        Ok(Leaf::new("", projections))
    }

    /// q, k, v [B, L, rows] of x [B, L, D], convolved where the layer does; the tails lie in three slots from `first`.
    pub fn forward(&self, x: &Array, slots: &mut Slots, first: usize) -> [Array; 3] {
        self.run(x, slots, first, false)
    }

    /// As [`forward`](Self::forward), with SiLU behind the convolutions.
    pub fn forward_silu(&self, x: &Array, slots: &mut Slots, first: usize) -> [Array; 3] {
        self.run(x, slots, first, true)
    }

    fn run(&self, x: &Array, slots: &mut Slots, first: usize, silu: bool) -> [Array; 3] {
        let flat = [self.q_proj.forward(x), self.k_proj.forward(x), self.v_proj.forward(x)];
        let Some(convs) = &self.convs else { return flat };
        std::array::from_fn(|i| match silu {
            true => convs[i].forward_silu(&flat[i], slots, first + i),
            false => convs[i].forward(&flat[i], slots, first + i),
        })
    }

    /// Heads [B, H, L, width] of queries and keys, [B, Hkv, L, width] of what is as many as the key heads.
    pub fn queries(&self, q: &Array) -> Array {
        split(q, self.spec.heads)
    }
    /// Heads [B, Hkv, L, width] of keys, values or their gates.
    pub fn keys(&self, k: &Array) -> Array {
        split(k, self.spec.kv_heads)
    }
    /// Each key head for the query heads that it serves: [B, Hkv, L, W] -> [B, H, L, W].
    pub fn spread(&self, k: Array) -> Array {
        match self.spec.heads / self.spec.kv_heads {
            1 => k,
            n => mx::repeat(&k, n, 1),
        }
    }
}

fn split(x: &Array, heads: i32) -> Array {
    super::attention::split_heads(x, heads)
}

/// log sigmoid(x) / normalizer, in float32: a log-decay that is never positive.
pub fn log_decay(x: &Array, normalizer: f32) -> Array {
    nn::log_sigmoid(&x.astype(Dtype::Float32)) / normalizer
}

/// x / sqrt(sum of x^2 + 1e-6) over the last axis, in float32.
pub fn unit(x: &Array) -> Array {
    let x = x.astype(Dtype::Float32);
    &x * (x.square().sum_keepdims(-1) + 1e-6).rsqrt()
}

/// [`HeadOutput`] with its weights.
#[derive(Module)]
pub struct Output {
    norm: Option<Leaf<Norm>>,
    g_proj: Option<Matrices>,
    o_proj: Leaf<Linear>,
    #[module(skip)]
    spec: HeadOutput,
}

impl Output {
    pub fn load(s: &HeadOutput, leaves: &Leaves, hidden: i32, heads: i32, width: i32) -> Result<Leaf<Output>> {
        let norm = |(name, n): &(String, NormSpec)| Norm::load(leaves, name, n, &[width]);
        let gate = |g: HeadGate| match g {
            HeadGate::Silu => Projection::Full("g_proj".into()),
            HeadGate::NarrowSigmoid => Projection::low_rank("g_proj.0", "g_proj.1", width),
        };
        let output = Output {
            norm: s.norm.as_ref().map(norm).transpose()?,
            g_proj: s.gate.map(|g| projection(leaves, &gate(g), hidden, heads * width)).transpose()?,
            o_proj: leaves.linear("o_proj", heads * width, hidden, false)?,
            spec: s.clone(),
        };
        Ok(Leaf::new("", output))
    }

    /// Heads o [B, H, L, V] of x [B, L, D] -> [B, L, D].
    pub fn forward(&self, o: &Array, x: &Array) -> Array {
        let o = o.astype(x.dtype()).transpose([0, 2, 1, 3]);
        let o = self.norm.as_ref().map_or_else(|| o.clone(), |n| n.forward(&o)).flatten(-2, -1);
        let o = match (&self.g_proj, self.spec.gate) {
            (Some(g), Some(HeadGate::Silu)) => nn::swiglu(&through(g, x), &o),
            (Some(g), Some(HeadGate::NarrowSigmoid)) => o * through(g, x).sigmoid(),
            _ => o,
        };
        self.o_proj.forward(&o)
    }
}
