//! PLaMo 2's mixer: the state space of mamba-2 behind the projections of mamba, with norms on time steps, B and C.

use super::{Mixer, conv::CausalConv, mamba2::StateSpace};
use crate::Result;
use crate::blueprint;
use crate::cache::Cache;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{Array, fast, nn};

/// One mixer over [`blueprint::PlamoMamba`].
#[derive(Module)]
pub struct PlamoMamba {
    in_proj: Leaf<Linear>,
    conv1d: Leaf<CausalConv>,
    bcdt_proj: Leaf<Linear>,
    dt_proj: Leaf<Linear>,
    space: Leaf<StateSpace>,
    dt_norm: Leaf<Param>,
    b_norm: Leaf<Param>,
    c_norm: Leaf<Param>,
    out_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::PlamoMamba,
}

pub(super) fn build(s: &blueprint::PlamoMamba, leaves: &Leaves) -> Result<PlamoMamba> {
    let inner = s.heads * s.head_dim;
    Ok(PlamoMamba {
        in_proj: leaves.linear("in_proj", s.hidden, 2 * inner, false)?,
        conv1d: CausalConv::load(leaves, "conv1d", inner, s.kernel, false)?,
        bcdt_proj: leaves.linear("bcdt_proj", inner, s.dt_rank + 2 * s.state, false)?,
        dt_proj: leaves.linear("dt_proj", s.dt_rank, s.heads, false)?,
        space: StateSpace::load(leaves, [s.heads, 1], s.dt_limit, Some(s.heads), true)?,
        dt_norm: leaves.param("dt_norm_weight", &[s.dt_rank])?,
        b_norm: leaves.param("B_norm_weight", &[s.state])?,
        c_norm: leaves.param("C_norm_weight", &[s.state])?,
        out_proj: leaves.linear("out_proj", inner, s.hidden, false)?,
        spec: s.clone(),
    })
}

impl Mixer for PlamoMamba {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let slots = cache.slots();
        // per head: its gate, then its input
        let halves = self.in_proj.forward(x).unflatten(-1, [s.heads, -1]).split(2, -1);
        let (z, u) = (halves[0].flatten(-2, -1), halves[1].flatten(-2, -1));
        let u = self.conv1d.forward_silu(&u, slots, 0);
        let p = self.bcdt_proj.forward(&u).split_at(&[s.state, 2 * s.state], -1);
        let norm = |a: &Array, weight: &Param| fast::rms_norm(a, Some(weight.value()), s.eps);
        let (b, c) = (norm(&p[0], &self.b_norm), norm(&p[1], &self.c_norm));
        let dt = self.dt_proj.forward(&norm(&p[2], &self.dt_norm));
        let y = self.space.forward([&u, &b, &c, &dt], slots, 1);
        slots.advance(x.dim(1));
        self.out_proj.forward(&nn::swiglu(&z, &y))
    }
}
