//! Gated products of convolved keys and values (gear's `conv_mixer`).

use super::Mixer;
use crate::Result;
use crate::blueprint::ConvGate as Spec;
use crate::cache::{Cache, Slots};
use crate::parts::{Norm, Step};
use crate::weights::Leaves;
use mlx::fast::{self, ShortConv};
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array};

/// o(sigmoid(q * conv(k)) * conv(v))
#[derive(Module)]
pub struct ConvGate {
    q_proj: Leaf<Linear>,
    k_proj: Leaf<Linear>,
    v_proj: Leaf<Linear>,
    o_proj: Leaf<Linear>,
    q_norm: Leaf<Norm>,
    k_norm: Leaf<Norm>,
    key_conv: Leaf<Param>,
    value_conv: Leaf<Param>,
    key_bias: Option<Leaf<Param>>,
    value_bias: Option<Leaf<Param>>,
    #[module(skip)]
    spec: Spec,
}

pub(super) fn build(s: &Spec, leaves: &Leaves) -> Result<ConvGate> {
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let bias = |name: &str| if s.bias { leaves.param(name, &[kv]).map(Some) } else { Ok(None) };
    Ok(ConvGate {
        q_proj: leaves.linear("q_proj", s.hidden, q, s.bias)?,
        k_proj: leaves.linear("k_proj", s.hidden, kv, s.bias)?,
        v_proj: leaves.linear("v_proj", s.hidden, kv, s.bias)?,
        o_proj: leaves.linear("o_proj", q, s.hidden, s.bias)?,
        q_norm: Norm::load(leaves, "q_norm", &s.norm, &[s.head_dim])?,
        k_norm: Norm::load(leaves, "k_norm", &s.norm, &[s.head_dim])?,
        key_conv: leaves.param("key_conv.weight", &[kv, s.taps, 1])?,
        value_conv: leaves.param("value_conv.weight", &[kv, s.taps, 1])?,
        key_bias: bias("key_conv.bias")?,
        value_bias: bias("value_conv.bias")?,
        spec: s.clone(),
    })
}

fn convolve(x: &Array, weight: &Param, bias: &Option<Leaf<Param>>, slots: &mut Slots, i: usize) -> Array {
    let tail = slots.take(i);
    let conv = ShortConv { weight: weight.value(), bias: bias.as_ref().map(|b| b.value()), tail: tail.as_ref() };
    let (y, tail) = fast::short_conv(x, &conv, false);
    slots.set(i, tail);
    y
}

impl Mixer for ConvGate {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let slots = cache.slots();
        let heads = |a: Array, n: i32| a.unflatten(-1, [n, s.head_dim]);
        let q = self.q_norm.forward(&heads(self.q_proj.forward(x), s.heads)).flatten(-2, -1);
        let k = self.k_norm.forward(&heads(self.k_proj.forward(x), s.kv_heads)).flatten(-2, -1);
        let k = convolve(&k, &self.key_conv, &self.key_bias, slots, 0);
        let v = convolve(&self.v_proj.forward(x), &self.value_conv, &self.value_bias, slots, 1);
        slots.advance(x.dim(1));
        let spread = |a: Array| mx::repeat(&heads(a, s.kv_heads), s.heads / s.kv_heads, -2).flatten(-2, -1);
        self.o_proj.forward(&((q * spread(k)).sigmoid() * spread(v)))
    }
}
