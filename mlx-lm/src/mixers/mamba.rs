//! Mamba (Gu and Dao 2023): per channel S = e^(dt A) S + dt x B, y = S C + D x, behind a short convolution.

use super::{Mixer, conv::CausalConv};
use crate::Result;
use crate::blueprint::{self, MambaNorms};
use crate::cache::Cache;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::fast::{self, SelectiveScan};
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{Array, Dtype, nn};

/// One mamba mixer.
#[derive(Module)]
pub struct Mamba {
    in_proj: Leaf<Linear>,
    conv1d: Leaf<CausalConv>,
    x_proj: Leaf<Linear>,
    dt_proj: Leaf<Linear>,
    a_log: Leaf<Param>,
    d: Leaf<Param>,
    out_proj: Leaf<Linear>,
    dt_norm: Option<Leaf<Param>>,
    b_norm: Option<Leaf<Param>>,
    c_norm: Option<Leaf<Param>>,
    #[module(skip)]
    spec: blueprint::Mamba,
}

pub(super) fn build(s: &blueprint::Mamba, leaves: &Leaves) -> Result<Mamba> {
    let norm = |name: &str, width: i32| match s.norms {
        MambaNorms::Learned { .. } => leaves.param(&format!("{name}_layernorm.weight"), &[width]).map(Some),
        _ => Ok(None),
    };
    Ok(Mamba {
        in_proj: leaves.linear("in_proj", s.hidden, 2 * s.inner, s.bias)?,
        conv1d: CausalConv::load(leaves, "conv1d", s.inner, s.kernel, s.conv_bias)?,
        x_proj: leaves.linear("x_proj", s.inner, s.dt_rank + 2 * s.state, false)?,
        dt_proj: leaves.linear("dt_proj", s.dt_rank, s.inner, true)?,
        a_log: leaves.param("A_log", &[s.inner, s.state])?,
        d: leaves.param("D", &[s.inner])?,
        out_proj: leaves.linear("out_proj", s.inner, s.hidden, s.bias)?,
        dt_norm: norm("dt", s.dt_rank)?,
        b_norm: norm("b", s.state)?,
        c_norm: norm("c", s.state)?,
        spec: s.clone(),
    })
}

impl Mixer for Mamba {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let slots = cache.slots();
        let parts = self.in_proj.forward(x).split(2, -1);
        let u = self.conv1d.forward_silu(&parts[0], slots, 0);
        let p = self.x_proj.forward(&u).split_at(&[s.dt_rank, s.dt_rank + s.state], -1);
        let norm = |a: &Array, weight: &Option<Leaf<Param>>| match s.norms {
            MambaNorms::None => a.clone(),
            MambaNorms::Plain { eps } => fast::rms_norm(a, None, eps),
            MambaNorms::Learned { eps } => fast::rms_norm(a, weight.as_ref().map(|w| w.value()), eps),
        };
        let f = |a: &Array| a.astype(Dtype::Float32);
        let dt = nn::softplus(&f(&self.dt_proj.forward(&norm(&p[0], &self.dt_norm))));
        let (b, c) = (norm(&p[1], &self.b_norm), norm(&p[2], &self.c_norm));
        let a = -f(self.a_log.value()).exp();
        let scan = SelectiveScan { u: &u, dt: &dt, a: &a, b: &b, c: &c, skip: self.d.value() };
        let (y, state) = fast::selective_scan(&scan, slots.take(1));
        slots.set(1, state);
        slots.advance(x.dim(1));
        self.out_proj.forward(&nn::swiglu(&parts[1], &y.astype(x.dtype())))
    }
}
