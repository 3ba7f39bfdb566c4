//! Mamba-2 (Dao and Gu 2024): S = e^(dt A) S + (dt x) B', y = S C + D x, behind a short convolution.

use super::{Mixer, conv::CausalConv, linear};
use crate::Result;
use crate::blueprint::{self, GatedNorm};
use crate::cache::Cache;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array, Dtype, fast, nn};

/// One mamba-2 mixer.
#[derive(Module)]
pub struct Mamba2 {
    in_proj: Leaf<Linear>,
    conv1d: Leaf<CausalConv>,
    dt_bias: Leaf<Param>,
    a_log: Leaf<Param>,
    d: Leaf<Param>,
    norm: Option<Leaf<Param>>,
    out_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::Mamba2,
}

pub(super) fn build(s: &blueprint::Mamba2, leaves: &Leaves) -> Result<Mamba2> {
    let inner = s.heads * s.head_dim;
    let conv = inner + 2 * s.groups * s.state;
    Ok(Mamba2 {
        in_proj: leaves.linear("in_proj", s.hidden, inner + conv + s.heads, s.bias)?,
        conv1d: CausalConv::load(leaves, "conv1d", conv, s.kernel, s.conv_bias)?,
        dt_bias: leaves.param("dt_bias", &[s.heads])?,
        a_log: leaves.param("A_log", &[s.heads])?,
        d: leaves.param("D", &[s.heads])?,
        norm: match s.norm {
            GatedNorm::None => None,
            _ => Some(leaves.param("norm.weight", &[inner])?),
        },
        out_proj: leaves.linear("out_proj", inner, s.hidden, s.bias)?,
        spec: s.clone(),
    })
}

impl Mamba2 {
    fn gated_norm(&self, y: &Array, z: &Array) -> Array {
        let s = &self.spec;
        let z = nn::silu(z);
        let Some(weight) = self.norm.as_ref().map(|n| n.value()) else {
            return y * z;
        };
        let y = if s.gate_first { y * &z } else { y.clone() };
        let y = match s.norm {
            GatedNorm::PerGroup => {
                fast::rms_norm(&y.unflatten(-1, [s.groups, -1]), None, s.eps).flatten(-2, -1) * weight
            }
            _ => fast::rms_norm(&y, Some(weight), s.eps),
        };
        if s.gate_first { y } else { y * z }
    }
}

impl Mixer for Mamba2 {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let [batch, l, _] = x.dims();
        let slots = cache.slots();
        let inner = s.heads * s.head_dim;
        let conv = inner + 2 * s.groups * s.state;
        let p = self.in_proj.forward(x).split_at(&[inner, inner + conv], -1);
        let y = self.conv1d.forward(&p[1], slots, 0);
        let y = nn::silu(&y);
        let parts = y.split_at(&[inner, inner + s.groups * s.state], -1);
        let heads = |a: &Array, n: i32| a.reshape([batch, l, n, -1]).transpose([0, 2, 1, 3]);
        let (u, b, c) = (heads(&parts[0], s.heads), heads(&parts[1], s.groups), heads(&parts[2], s.groups));
        let wide = |a: Array| if s.heads == s.groups { a } else { mx::repeat(&a, s.heads / s.groups, 1) };
        let dt = nn::softplus(&(p[2].astype(Dtype::Float32) + self.dt_bias.value()));
        let dt = mx::clip(&dt, Some(s.dt_limit.0), Some(s.dt_limit.1));
        let g = -(&dt * self.a_log.value().astype(Dtype::Float32).exp()).swapaxes(1, 2).expand_dims(-1);
        let v = &u * dt.swapaxes(1, 2).expand_dims(-1);
        let (b, c) = (wide(b), wide(c));
        let (y, state) = linear::scan(linear::Inputs { q: &c, k: &b, v: &v, g: &g, read: None }, slots.take(1));
        slots.set(1, state);
        slots.advance(l);
        let y = y + u.astype(Dtype::Float32) * self.d.value().reshape([-1, 1, 1]);
        let y = y.astype(x.dtype()).transpose([0, 2, 1, 3]).reshape([batch, l, inner]);
        self.out_proj.forward(&self.gated_norm(&y, &p[0]))
    }
}
