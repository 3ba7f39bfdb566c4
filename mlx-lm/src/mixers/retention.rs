//! Retention: linear attention with a fixed decay per head (retnet).

use super::Mixer;
use super::heads::{Output, Projections};
use super::rope::Rope;
use crate::Result;
use crate::blueprint;
use crate::cache::{Cache, Position, Slots};
use crate::ffn::activation;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::fast::{LinearScan, Rule, linear_scan};
use mlx::nn::{Leaf, Module};
use mlx::{self as mx, Array, Dtype};

/// Slot 0 holds the state, the next ones the tails of convolutions, the last one how many tokens each row has seen, so
/// that a saved state knows it.
#[derive(Module)]
pub struct Retention {
    heads: Leaf<Projections>,
    output: Leaf<Output>,
    #[module(skip)]
    rope: Option<Rope>,
    #[module(skip)]
    spec: blueprint::Retention,
}

pub(super) fn build(s: &blueprint::Retention, leaves: &Leaves) -> Result<Retention> {
    let h = &s.heads;
    Ok(Retention {
        heads: Projections::load(h, leaves)?,
        output: Output::load(&s.output, leaves, h.hidden, h.heads, h.value_dim)?,
        rope: s.rope.as_ref().map(Rope::new),
        spec: s.clone(),
    })
}

/// ln(1 - 2^(-5-h)) of head h: [1, H, 1, 1].
pub fn log_decays(heads: i32) -> Array {
    let g: Vec<f32> = (0..heads).map(|h| (-(2f64.powi(-5 - h))).ln_1p() as f32).collect();
    Array::from(g).reshape([1, heads, 1, 1])
}

/// Where the next token of each row stands, counted in slot `i`; `n` more are counted.
fn positions(slots: &mut Slots, i: usize, rows: i32, n: i32) -> Position {
    let seen = slots.take(i).unwrap_or_else(|| mx::zeros([rows], Dtype::Int32));
    slots.set(i, &seen + n);
    Position::Rows(seen)
}

impl Mixer for Retention {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let (s, p) = (&self.spec, &self.heads);
        let [b, l, _] = x.dims();
        let slots = cache.slots();
        let [q, k, v] = p.forward_silu(x, slots, 1);
        let act = |a: Array| s.feature_map.map_or(a.clone(), |f| activation::apply(f, &a));
        let (mut q, mut k) = (act(p.queries(&q)), act(p.keys(&k)));
        if let Some(rope) = &self.rope {
            let at = positions(slots, 1 + s.heads.slots(), b, l);
            (q, k) = (rope.forward(&q, &at), rope.forward(&k, &at));
        }
        let v = p.keys(&v);
        let q = q * (s.heads.key_dim as f32).powf(-0.5);
        let g = mx::broadcast_to(&log_decays(s.heads.heads), [b, s.heads.heads, l, 1]);
        let rule = Rule::Add { beta: None };
        let (o, state) = linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, slots.take(0));
        slots.set(0, state);
        slots.advance(l);
        self.output.forward(&o, x)
    }
}
