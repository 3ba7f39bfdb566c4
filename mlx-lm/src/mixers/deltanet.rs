//! Linear attention by the delta rule (deltanet).

use super::Mixer;
use super::heads::{Output, Projections, unit};
use crate::Result;
use crate::blueprint::{self, DeltaNorm};
use crate::cache::Cache;
use crate::ffn::activation;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::fast::{LinearScan, Rule, linear_scan};
use mlx::nn::{self, Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

/// Slot 0 holds the state, the next ones the tails of convolutions.
#[derive(Module)]
pub struct DeltaNet {
    heads: Leaf<Projections>,
    b_proj: Option<Leaf<Linear>>,
    output: Leaf<Output>,
    #[module(skip)]
    spec: blueprint::DeltaNet,
}

pub(super) fn build(s: &blueprint::DeltaNet, leaves: &Leaves) -> Result<DeltaNet> {
    let h = &s.heads;
    Ok(DeltaNet {
        heads: Projections::load(h, leaves)?,
        b_proj: if s.beta { Some(leaves.linear("b_proj", h.hidden, h.heads, false)?) } else { None },
        output: Output::load(&s.output, leaves, h.hidden, h.heads, h.value_dim)?,
        spec: s.clone(),
    })
}

/// x over the sum of its magnitudes, in float32.
fn unit_sum(x: &Array) -> Array {
    let x = x.astype(Dtype::Float32);
    &x / mx::maximum(x.abs().sum_keepdims(-1), 1e-6)
}

impl Mixer for DeltaNet {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let (s, p) = (&self.spec, &self.heads);
        let [b, l, _] = x.dims();
        let slots = cache.slots();
        let [q, k, v] = p.forward(x, slots, 1);
        let act = |a: Array| s.qk_activation.map_or(a.clone(), |f| activation::apply(f, &a));
        let (q, k) = (act(p.queries(&q)), act(p.keys(&k)));
        let v = p.keys(&if s.silu_values { nn::silu(&v) } else { v });
        let (q, k) = match s.qk_norm {
            DeltaNorm::Unit => (unit(&q), unit(&k)),
            DeltaNorm::Sum => (unit_sum(&q), unit_sum(&k)),
            DeltaNorm::UnitKeys => (q, unit(&k)),
        };
        let beta = match &self.b_proj {
            None => mx::ones([b, s.heads.heads, l, 1], Dtype::Float32),
            Some(proj) => proj.forward(x).astype(Dtype::Float32).sigmoid().swapaxes(1, 2).expand_dims(-1),
        };
        let beta = if s.negative { beta * 2.0 } else { beta };
        let q = q * (s.heads.key_dim as f32).powf(-0.5);
        // nothing is forgotten
        let g = mx::zeros([b, s.heads.heads, l, 1], Dtype::Float32);
        let rule = Rule::Delta { beta: &beta };
        let (o, state) = linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, slots.take(0));
        slots.set(0, state);
        slots.advance(l);
        self.output.forward(&o, x)
    }
}
