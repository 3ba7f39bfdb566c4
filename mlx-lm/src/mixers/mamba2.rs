//! Mamba-2 (Dao and Gu 2024): S = e^(dt A) S + (dt x) B', y = S C + D x, behind a short convolution.

use super::delta::FEW_TOKENS;
use super::{Mixer, conv::CausalConv};
use crate::Result;
use crate::blueprint::{self, GatedNorm, Skip};
use crate::cache::{Cache, Slots};
use crate::parts::{Around, Step};
use crate::weights::Leaves;
use mlx::fast::{self, Columns, Fused, LinearScan, Rule, SpaceLayer};
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array, Dtype, nn};

/// The state space of all heads: `S = e^(dt A) S + (dt u) B'`, `y = S C + D u`, dt = softplus(dt + bias) within bounds.
#[derive(Module)]
pub(super) struct StateSpace {
    dt_bias: Option<Leaf<Param>>,
    a_log: Leaf<Param>,
    d: Option<Leaf<Param>>,
    #[module(skip)]
    heads: i32,
    #[module(skip)]
    groups: i32,
    #[module(skip)]
    dt_limit: (f32, f32),
}

impl StateSpace {
    /// Head h of `heads` uses B and C of group h / (heads / groups); `D` has `skip` numbers, one per head or channel, or
    /// is absent.
    pub fn load(
        leaves: &Leaves,
        [heads, groups]: [i32; 2],
        dt_limit: (f32, f32),
        skip: Option<i32>,
        dt_bias: bool,
    ) -> Result<Leaf<StateSpace>> {
        let param = |name: &str, n: i32| leaves.param(name, &[n]);
        let dt_bias = if dt_bias { Some(param("dt_bias", heads)?) } else { None };
        let (a_log, d) = (param("A_log", heads)?, skip.map(|n| param("D", n)).transpose()?);
        Ok(Leaf::new("", StateSpace { dt_bias, a_log, d, heads, groups, dt_limit }))
    }

    /// u [B, L, H P], b, c [B, L, G N], dt [B, L, H] to y [B, L, H P]; slot `slot` holds the state.
    pub fn forward(&self, [u, b, c, dt]: [&Array; 4], slots: &mut Slots, slot: usize) -> Array {
        let dtype = u.dtype();
        let heads = |a: &Array, n: i32| a.unflatten(-1, [n, -1]).swapaxes(1, 2);
        let (u, k, q) = (heads(u, self.heads), heads(b, self.groups), heads(c, self.groups));
        let dt = dt.astype(Dtype::Float32);
        let dt = nn::softplus(&self.dt_bias.as_ref().map_or(dt.clone(), |b| dt + b.value()));
        let dt = mx::clip(&dt, Some(self.dt_limit.0), Some(self.dt_limit.1));
        let g = -(&dt * self.a_log.value().astype(Dtype::Float32).exp());
        let [g, dt] = [g, dt].map(|a| a.swapaxes(1, 2).expand_dims(-1));
        let rule = Rule::Add { beta: Some(&dt) };
        let (y, state) = fast::linear_scan(&LinearScan { q: &q, k: &k, v: &u, g: &g, rule }, slots.take(slot));
        slots.set(slot, state);
        let y = match &self.d {
            Some(d) => y + u.astype(Dtype::Float32) * d.value().reshape([self.heads, 1, -1]),
            None => y,
        };
        y.astype(dtype).swapaxes(1, 2).flatten(-2, -1)
    }
}

/// One mamba-2 mixer.
#[derive(Module)]
pub struct Mamba2 {
    in_proj: Leaf<Linear>,
    conv1d: Leaf<CausalConv>,
    space: Leaf<StateSpace>,
    norm: Option<Leaf<Param>>,
    out_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::Mamba2,
}

pub(super) fn build(s: &blueprint::Mamba2, leaves: &Leaves) -> Result<Mamba2> {
    let inner = s.heads * s.head_dim;
    let conv = inner + 2 * s.groups * s.state;
    let skip = match s.skip {
        Skip::None => None,
        Skip::PerHead => Some(s.heads),
        Skip::PerChannel => Some(inner),
    };
    Ok(Mamba2 {
        in_proj: leaves.linear("in_proj", s.hidden, inner + conv + s.heads, s.bias[0])?,
        conv1d: CausalConv::load(leaves, "conv1d", conv, s.kernel, s.conv_bias)?,
        space: StateSpace::load(leaves, [s.heads, s.groups], s.dt_limit, skip, s.dt_bias)?,
        norm: match s.norm {
            GatedNorm::None => None,
            _ => Some(leaves.param("norm.weight", &[inner])?),
        },
        out_proj: leaves.linear("out_proj", inner, s.hidden, s.bias[1])?,
        spec: s.clone(),
    })
}

impl Mamba2 {
    /// What follows the input projection p and precedes the output's, in two kernels; `None` where there are none.
    fn fused_space(&self, p: &Array, slots: &mut Slots) -> Option<Array> {
        let (s, space) = (&self.spec, &self.space);
        if !fast::has_layer_kernels() || p.dim(1) > FEW_TOKENS {
            return None;
        }
        let inner = s.heads * s.head_dim;
        let layer = SpaceLayer {
            heads: s.heads,
            head_dim: s.head_dim,
            groups: s.groups,
            state: s.state,
            x: p,
            at: inner,
            dt_at: 2 * inner + 2 * s.groups * s.state,
            conv: self.conv1d.short(slots.get(0)),
            a_log: space.a_log.value(),
            dt_bias: space.dt_bias.as_ref().map(|b| b.value()),
            skip: space.d.as_ref().map(|d| d.value()),
            dt_limit: s.dt_limit,
        };
        let done = fast::space_fused(&layer, slots.get(1))?;
        let tokens = p.dim(1);
        done.tails.into_iter().chain([done.state]).enumerate().for_each(|(n, a)| slots.set(n, a));
        slots.advance(tokens);
        let groups = if s.norm == GatedNorm::PerGroup { s.groups } else { 1 };
        let norm = self.norm.as_ref().map(|n| (n.value(), s.eps));
        let normed =
            norm.and_then(|n| fast::gated_norm_fused(&done.out, Columns::new(p, 0, inner), n, groups, s.gate_first));
        Some(normed.unwrap_or_else(|| self.gated_norm(&done.out, &p.slice_axis(-1, 0..inner))))
    }

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
        let slots = cache.slots();
        let inner = s.heads * s.head_dim;
        let conv = inner + 2 * s.groups * s.state;
        let p = self.in_proj.forward(x);
        if let Some(y) = self.fused_space(&p, slots) {
            return self.out_proj.forward(&y);
        }
        let p = p.split_at(&[inner, inner + conv], -1);
        let y = self.conv1d.forward_silu(&p[1], slots, 0);
        let parts = y.split_at(&[inner, inner + s.groups * s.state], -1);
        let y = self.space.forward([&parts[0], &parts[1], &parts[2], &p[2]], slots, 1);
        slots.advance(x.dim(1));
        self.out_proj.forward(&self.gated_norm(&y, &p[0]))
    }

    fn fused(&self, x: &Array, around: &Around<'_>, cache: &mut dyn Cache) -> Option<Array> {
        let (in_proj, out_proj) = (self.in_proj.matrix()?, self.out_proj.matrix()?);
        let p = fast::linear(x, &[in_proj], Fused { norm: Some(around.norm), ..Default::default() });
        let y = self.fused_space(&p, cache.slots())?;
        Some(fast::linear(&y, &[out_proj], around.after(x)))
    }

    fn first_weights(&self) -> [Option<&Array>; 2] {
        [Some(self.in_proj.weight()), None]
    }
}
