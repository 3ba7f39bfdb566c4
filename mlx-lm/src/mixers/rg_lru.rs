//! Griffin's recurrent block (De et al. 2024): h = a h + sqrt(1 - a^2) (gate x), a = e^(-8 gate' softplus(p)), behind a
//! short convolution and under a second, gating branch.

use super::{Mixer, conv::CausalConv};
use crate::Result;
use crate::blueprint::{self, Activation};
use crate::cache::Cache;
use crate::ffn::activation;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::plain::prefix::states;
use mlx::{self as mx, Array, Dtype, nn};

/// How much the strongest gate decays.
const POWER: f32 = -8.0;

/// One recurrent block over [`blueprint::RgLru`].
#[derive(Module)]
pub struct RgLru {
    linear_y: Leaf<Linear>,
    linear_x: Leaf<Linear>,
    linear_out: Leaf<Linear>,
    conv: Leaf<CausalConv>,
    recurrent_param: Leaf<Param>,
    input_weight: Leaf<Param>,
    input_bias: Leaf<Param>,
    recurrent_weight: Leaf<Param>,
    recurrent_bias: Leaf<Param>,
}

pub(super) fn build(s: &blueprint::RgLru, leaves: &Leaves) -> Result<RgLru> {
    let dim = s.inner / s.heads;
    Ok(RgLru {
        linear_y: leaves.linear("linear_y", s.hidden, s.inner, true)?,
        linear_x: leaves.linear("linear_x", s.hidden, s.inner, true)?,
        linear_out: leaves.linear("linear_out", s.inner, s.hidden, true)?,
        conv: CausalConv::load(leaves, "conv_1d", s.inner, s.kernel, true)?,
        recurrent_param: leaves.param("rg_lru.recurrent_param", &[s.inner])?,
        input_weight: leaves.param("rg_lru.input_gate_weight", &[s.heads, dim, dim])?,
        input_bias: leaves.param("rg_lru.input_gate_bias", &[s.heads, dim])?,
        recurrent_weight: leaves.param("rg_lru.recurrent_gate_weight", &[s.heads, dim, dim])?,
        recurrent_bias: leaves.param("rg_lru.recurrent_gate_bias", &[s.heads, dim])?,
    })
}

/// sigmoid of a matrix [K, K] per head and a bias [H, K], for x [B, L, H * K].
fn gate(x: &Array, weight: &Param, bias: &Param) -> Array {
    let heads = x.unflatten(-1, [weight.dim(0), -1]).swapaxes(1, 2);
    (heads.matmul(weight.value()).swapaxes(1, 2) + bias.value()).flatten(-2, -1).sigmoid()
}

impl Mixer for RgLru {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let slots = cache.slots();
        let l = x.dim(1);
        let y = activation::apply(Activation::GeluTanh, &self.linear_y.forward(x));
        let u = self.conv.forward(&self.linear_x.forward(x), slots, 0);
        let input = &u * gate(&u, &self.input_weight, &self.input_bias);
        let strength = gate(&u, &self.recurrent_weight, &self.recurrent_bias);
        let p = nn::softplus(self.recurrent_param.value());
        let log_decay = (strength * p * POWER).astype(Dtype::Float32);
        let mut scale = (-(&log_decay * 2.0).expm1()).sqrt();
        let before = slots.take(1);
        if before.is_none() {
            // what starts a sequence is not scaled
            let first = mx::ones_like(&scale.slice_axis(1, 0..1));
            scale = mx::concatenate(&[first, scale.slice_axis(1, 1..l)], 1);
        }
        let input = input.astype(Dtype::Float32) * scale;
        let before = before.unwrap_or_else(|| mx::zeros_like(&input.slice_axis(1, 0..1).squeeze(1)));
        let h = states(&log_decay.exp(), &input, &before.astype(Dtype::Float32));
        slots.set(1, mx::contiguous(&h.slice_axis(1, l - 1..l).squeeze(1)));
        slots.advance(l);
        self.linear_out.forward(&(h.astype(x.dtype()) * y))
    }
}
