//! Gated linear attention (gla, simple_gla).

use super::Mixer;
use super::delta::{Matrices, projection, through};
use super::heads::{Output, Projections, log_decay};
use crate::Result;
use crate::blueprint::{self, Forget, Projection};
use crate::cache::Cache;
use crate::ffn::activation;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::fast::{LinearScan, Rule, linear_scan};
use mlx::nn::{Leaf, Module};
use mlx::{self as mx, Array};

/// Slot 0 holds the state, the next ones the tails of convolutions.
#[derive(Module)]
pub struct Gla {
    heads: Leaf<Projections>,
    gk_proj: Matrices,
    output: Leaf<Output>,
    #[module(skip)]
    spec: blueprint::Gla,
}

/// The gates' projection, `gk_proj`.
fn gates(s: &blueprint::Gla, leaves: &Leaves) -> Result<Matrices> {
    let (h, name) = (&s.heads, "gk_proj");
    let rows = h.kv_heads * h.key_dim;
    match s.forget {
        Forget::PerKey => projection(leaves, &Projection::Full(name.into()), h.hidden, rows),
        Forget::PerHead => Ok(Leaf::new("", vec![leaves.linear(name, h.hidden, h.heads, true)?])),
        Forget::Narrow(rank) => {
            let (first, second) = (format!("{name}.0"), format!("{name}.1"));
            projection(leaves, &Projection::LowRank { first, second, rank, bias: true }, h.hidden, rows)
        }
    }
}

pub(super) fn build(s: &blueprint::Gla, leaves: &Leaves) -> Result<Gla> {
    let h = &s.heads;
    Ok(Gla {
        heads: Projections::load(h, leaves)?,
        gk_proj: gates(s, leaves)?,
        output: Output::load(&s.output, leaves, h.hidden, h.heads, h.value_dim)?,
        spec: s.clone(),
    })
}

impl Mixer for Gla {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let (s, p) = (&self.spec, &self.heads);
        let slots = cache.slots();
        let [q, k, v] = p.forward_silu(x, slots, 1);
        let act = |a: Array| s.feature_map.map_or(a.clone(), |f| activation::apply(f, &a));
        let (q, k) = (act(p.queries(&q)), act(p.keys(&k)));
        let v = p.keys(&v);
        let gate = through(&self.gk_proj, x);
        let gate = match s.forget {
            Forget::PerHead => gate.swapaxes(1, 2).expand_dims(-1),
            _ => p.keys(&gate),
        };
        let mut g = log_decay(&gate, s.normalizer);
        if let Some(min) = s.clamp_min {
            g = mx::maximum(g, min);
        }
        let q = q * (s.heads.key_dim as f32).powf(-0.5);
        let rule = Rule::Add { beta: None };
        let (o, state) = linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, slots.take(0));
        slots.set(0, state);
        slots.advance(x.dim(1));
        self.output.forward(&o, x)
    }
}
