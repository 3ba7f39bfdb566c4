//! Kimi Delta Attention (kimi_linear, kimi_k3, bailing_moe_v3, kda).

use super::Mixer;
use super::delta::{
    DeltaRule, FEW_TOKENS, Matrices, Projected, each, normed_rows, numbers, projection, qkv_matrices, stored, through,
};
use crate::Result;
use crate::blueprint::{self, QkvNames};
use crate::cache::{Cache, Slots};
use crate::parts::{Around, Step};
use crate::weights::Leaves;
use mlx::fast::{Columns, Fused, HeadGate, LogDecay};
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

impl Kda {
    /// All between projections and output in one kernel, if there is one; q, k and v lie side by side from `qkv.1` on, or
    /// in arrays of their own.
    fn fused_rule(
        &self,
        qkv: &[(&Array, i32)],
        beta: (&Array, i32),
        [f, gate]: [&Array; 2],
        slots: &mut Slots,
    ) -> Option<Array> {
        let h = &self.spec.heads;
        let per = h.value_heads / h.key_heads;
        let (keys, k, v) = (h.widths().0, h.key_dim, per * h.value_dim);
        let part = |(x, at): (&'_ Array, i32), more: i32, width: i32| (x.clone(), at + more, width);
        let parts = match *qkv {
            [all] => [part(all, 0, k), part(all, keys, k), part(all, 2 * keys, v)],
            [query, key, value] => [part(query, 0, k), part(key, 0, k), part(value, 0, v)],
            _ => return None,
        };
        let columns = |i: usize| Columns::new(&parts[i].0, parts[i].1, parts[i].2);
        let projected = Projected {
            qkv: [columns(0), columns(1), columns(2)],
            beta: Columns::new(beta.0, beta.1, per),
            a: Columns::new(f, 0, k),
            channels: true,
            decay: self.spec.lower_bound.map_or(LogDecay::Softplus, LogDecay::Bounded),
            a_log: self.a_log.value(),
            dt_bias: self.dt_bias.value(),
            norm: self.o_norm.value(),
            gate: HeadGate::Sigmoid(Columns::new(gate, 0, v)),
        };
        self.rule.fused(&projected, slots)
    }
}

impl Mixer for Kda {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let h = &self.spec.heads;
        let (qkv, beta, gate) = (each(&self.qkv, x), self.b_proj.forward(x), through(&self.gate, x));
        if fast::has_layer_kernels() && x.dim(1) <= FEW_TOKENS {
            let parts: Vec<_> = qkv.iter().map(|a| (a, 0)).collect();
            if let Some(o) = self.fused_rule(&parts, (&beta, 0), [&through(&self.decay, x), &gate], cache.slots()) {
                return self.o_proj.forward(&o);
            }
        }
        let o = self.rule.forward(qkv, &self.log_decay(x), &beta, cache.slots());
        let normed = fast::rms_norm(&o, Some(self.o_norm.value()), h.eps);
        let gate = gate.unflatten(-1, [h.value_heads, -1]).sigmoid();
        self.o_proj.forward(&(normed * gate).flatten(-2, -1))
    }

    fn fused(&self, x: &Array, around: &Around<'_>, cache: &mut dyn Cache) -> Option<Array> {
        let o_proj = self.o_proj.matrix()?;
        let (qkv, decay, gate) = (stored(&self.qkv)?, stored(&self.decay)?, stored(&self.gate)?);
        let (first, n) = ([*decay.first()?, *gate.first()?, self.b_proj.matrix()?], qkv.len());
        let (arrays, places) = normed_rows(&[qkv, first.to_vec()].concat(), x, around.norm);
        let row = |i: usize| (&arrays[places[i].0], places[i].1);
        // a wide product is read where it lies, a narrow one goes through the second matrix
        let ends = [(n, &decay), (n + 1, &gate)].map(|(i, m)| {
            let (y, at) = row(i);
            let y = y.slice_axis(-1, at..at + m[0].outputs());
            m[1..].iter().fold(y, |y, m| fast::linear(&y, &[*m], Fused::default()))
        });
        let parts: Vec<_> = (0..n).map(row).collect();
        let o = self.fused_rule(&parts, row(n + 2), [&ends[0], &ends[1]], cache.slots())?;
        Some(fast::linear(&o, &[o_proj], around.after(x)))
    }

    fn first_weights(&self) -> [Option<&Array>; 2] {
        [self.qkv.first().map(|m| m.weight()), None]
    }
}
