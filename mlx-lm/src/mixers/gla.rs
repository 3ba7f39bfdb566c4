//! Gated linear attention (gla, simple_gla).

use super::Mixer;
use super::heads::{Output, Projections, log_decay};
use super::linear;
use crate::Result;
use crate::blueprint::{self, Forget};
use crate::cache::Cache;
use crate::ffn::activation;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module};
use mlx::{self as mx, Array};

/// Slot 0 holds the state, the next ones the tails of convolutions.
#[derive(Module)]
pub struct Gla {
    heads: Leaf<Projections>,
    gk_proj: Leaf<Forgetting>,
    output: Leaf<Output>,
    #[module(skip)]
    spec: blueprint::Gla,
}

#[derive(Module)]
struct Forgetting {
    first: Leaf<Linear>,
    second: Option<Leaf<Linear>>,
}

impl Forgetting {
    fn load(s: &blueprint::Gla, leaves: &Leaves) -> Result<Leaf<Forgetting>> {
        let h = &s.heads;
        let one = |rows: i32, bias: bool| {
            let first = Leaf::new("", leaves.linear("gk_proj", h.hidden, rows, bias)?.into_inner());
            Ok::<_, crate::Error>(Forgetting { first, second: None })
        };
        let rows = h.kv_heads * h.key_dim;
        let gate = match s.forget {
            Forget::PerKey => one(rows, false)?,
            Forget::PerHead => one(h.heads, true)?,
            Forget::Narrow(width) => {
                let l = leaves.at("gk_proj");
                let second = Some(l.linear("1", width, rows, true)?);
                Forgetting { first: l.linear("0", h.hidden, width, false)?, second }
            }
        };
        Ok(Leaf::new("gk_proj", gate))
    }
}

pub(super) fn build(s: &blueprint::Gla, leaves: &Leaves) -> Result<Gla> {
    let h = &s.heads;
    Ok(Gla {
        heads: Projections::load(h, leaves)?,
        gk_proj: Forgetting::load(s, leaves)?,
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
        let (q, k) = (act(p.queries(&q)), p.spread(act(p.keys(&k))));
        let v = p.spread(p.keys(&v));
        let gate = self.gk_proj.first.forward(x);
        let gate = self.gk_proj.second.as_ref().map_or(gate.clone(), |second| second.forward(&gate));
        let gate = match s.forget {
            Forget::PerHead => gate.swapaxes(1, 2).expand_dims(-1),
            _ => p.spread(p.keys(&gate)),
        };
        let mut g = log_decay(&gate, s.normalizer);
        if let Some(min) = s.clamp_min {
            g = mx::maximum(g, min);
        }
        let q = q * (s.heads.key_dim as f32).powf(-0.5);
        let (o, state) = linear::scan(linear::Inputs { q: &q, k: &k, v: &v, g: &g, read: None }, slots.take(0));
        slots.set(0, state);
        slots.advance(x.dim(1));
        self.output.forward(&o, x)
    }
}
