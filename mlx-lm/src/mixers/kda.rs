//! Kimi Delta Attention (kimi_linear, kimi_k3, bailing_moe_v3, kda).

use super::Mixer;
use super::delta::{DeltaRule, Matrices, each, numbers, projection, qkv_matrices, through};
use crate::Result;
use crate::blueprint::{self, QkvNames};
use crate::cache::Cache;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{Array, Dtype, fast, nn};

/// KDA over [`blueprint::Kda`].
#[derive(Module)]
pub struct Kda {
    qkv: Matrices,
    rule: Leaf<DeltaRule>,
    decay: Matrices,
    b_proj: Leaf<Linear>,
    a_log: Leaf<Param>,
    dt_bias: Leaf<Param>,
    gate: Matrices,
    o_norm: Leaf<Param>,
    o_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::Kda,
}

pub(super) fn build(s: &blueprint::Kda, leaves: &Leaves) -> Result<Kda> {
    let h = &s.heads;
    let (values, decays) = (h.widths().1, h.value_heads * h.key_dim);
    let convs: Vec<&str> = match &s.qkv {
        QkvNames::Separate(names) => names.iter().map(String::as_str).collect(),
        QkvNames::Joined { conv, .. } => vec![conv],
    };
    Ok(Kda {
        qkv: qkv_matrices(h, &s.qkv, leaves)?,
        rule: DeltaRule::load(h, &convs, leaves)?,
        decay: projection(leaves, &s.decay, h.hidden, decays)?,
        b_proj: leaves.linear("b_proj", h.hidden, h.value_heads, false)?,
        a_log: numbers(leaves, "A_log", h.value_heads)?,
        dt_bias: numbers(leaves, "dt_bias", decays)?,
        gate: projection(leaves, &s.gate, h.hidden, values)?,
        o_norm: leaves.param("o_norm.weight", &[h.value_dim])?,
        o_proj: leaves.linear("o_proj", values, h.hidden, false)?,
        spec: s.clone(),
    })
}

impl Kda {
    /// Log-decays [B, L, Hv, K] in float32.
    fn log_decay(&self, x: &Array) -> Array {
        let heads = |a: Array| a.unflatten(-1, [self.spec.heads.value_heads, -1]);
        let f = heads(through(&self.decay, x)).astype(Dtype::Float32) + heads(self.dt_bias.flatten(0, -1));
        let a = self.a_log.astype(Dtype::Float32).exp().reshape([-1, 1]);
        match self.spec.lower_bound {
            None => -(a * nn::softplus(&f)),
            Some(bound) => (a * f).sigmoid() * bound,
        }
    }
}

impl Mixer for Kda {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let h = &self.spec.heads;
        let beta = self.b_proj.forward(x);
        let o = self.rule.forward(each(&self.qkv, x), &self.log_decay(x), &beta, cache.slots());
        let normed = fast::rms_norm(&o, Some(self.o_norm.value()), h.eps);
        let gate = through(&self.gate, x).unflatten(-1, [h.value_heads, -1]).sigmoid();
        self.o_proj.forward(&(normed * gate).flatten(-2, -1))
    }
}
