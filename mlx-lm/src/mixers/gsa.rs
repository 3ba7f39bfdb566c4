//! Gated slot attention: keys and values go into slots that forget; queries read them by a softmax over the slots.

use super::Mixer;
use super::heads::{Projections, log_decay};
use crate::Result;
use crate::blueprint::{self, SlotMap, SlotOutput};
use crate::cache::Cache;
use crate::ffn::activation;
use crate::parts::{Norm, Step};
use crate::weights::Leaves;
use mlx::fast::{LinearScan, Rule, linear_scan};
use mlx::nn::{self, Leaf, Linear, Module};
use mlx::plain::linear_scan::{Fades, chunks, half};
use mlx::{self as mx, Array, Dtype};

/// Slots 0 and 1 hold the states of keys and values, the next ones the tails of convolutions.
#[derive(Module)]
pub struct Gsa {
    heads: Leaf<Projections>,
    f_proj: Leaf<Linear>,
    feature_map: Option<Leaf<Linear>>,
    g_norm: Option<Leaf<Norm>>,
    g_proj: Option<Leaf<Linear>>,
    o_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::Gsa,
}

pub(super) fn build(s: &blueprint::Gsa, leaves: &Leaves) -> Result<Gsa> {
    let h = &s.heads;
    let inner = h.heads * h.value_dim;
    let (mut g_norm, mut g_proj) = (None, None);
    match &s.output {
        SlotOutput::Normed(name, norm) => g_norm = Some(Norm::load(leaves, name, norm, &[inner])?),
        SlotOutput::Gated => g_proj = Some(leaves.linear("g_proj", h.hidden, inner, false)?),
    }
    let feature_map = match s.feature_map {
        Some(SlotMap::Learned) => {
            let map = leaves.at("feature_map").linear("layer", h.key_dim, h.key_dim, false)?;
            Some(Leaf::new("feature_map.layer", map.into_inner()))
        }
        _ => None,
    };
    Ok(Gsa {
        heads: Projections::load(h, leaves)?,
        f_proj: leaves.linear("f_proj", h.hidden, h.kv_heads * s.slots, false)?,
        feature_map,
        g_norm,
        g_proj,
        o_proj: leaves.linear("o_proj", inner, h.hidden, false)?,
        spec: s.clone(),
    })
}

/// Tokens of a chunk, and chunks that are prepared at the same time.
const CHUNK: i32 = 64;
const TOGETHER: i32 = 4;

/// Both passes: q, k [B, H, L, K], v [B, H, L, V], log-decays g [B, H, L, M] to o [B, H, L, V] in float32 and the states
/// [B, H, M, K] and [B, H, V, M].
///
/// `Sk = diag(e^g) Sk + s k^T` and `Sv = Sv diag(e^g) + v s^T` with s = 1 - e^g; `o = Sv softmax(scale Sk q)`.
pub fn attend([q, k, v, g]: [&Array; 4], scale: f32, states: [Option<Array>; 2]) -> (Array, [Array; 2]) {
    let f = |a: &Array| a.astype(Dtype::Float32);
    let (q, k, g) = (f(q) * scale, f(k), f(g));
    let s = -g.expm1();
    let [keys, values] = states;
    let (scores, keys) = slot_scores(&q, &k, &s, &g, keys);
    let a = mx::softmax(&scores, -1);
    let rule = Rule::Add { beta: None };
    let (o, values) = linear_scan(&LinearScan { q: &a, k: &s, v, g: &g, rule }, values);
    (o, [keys, values])
}

/// Scores [B, H, L, M] of the slots and the state [B, H, M, K] after the last token.
fn slot_scores(q: &Array, k: &Array, s: &Array, g: &Array, state: Option<Array>) -> (Array, Array) {
    let [b, h, l, d] = q.dims();
    let mut state = state.unwrap_or_else(|| mx::zeros([b, h, g.dim(-1), d], Dtype::Float32)).astype(Dtype::Float32);
    let column = |a: &Array| a.swapaxes(-1, -2);
    if l == 1 {
        let state = column(&g.exp()) * state + column(s).matmul(k);
        return (q.matmul(&column(&state)), state);
    }
    let c = CHUNK.min((l as u32).next_power_of_two() as i32);
    let mut out = Vec::new();
    for at in (0..l).step_by((c * TOGETHER) as usize) {
        let tokens = (l - at).min(c * TOGETHER);
        let [q, k, s, g] = [q, k, s, g].map(|a| chunks(&a.slice_axis(2, at..at + tokens), c));
        let fades = Fades::new(&g);
        let inside = found(&q.matmul(&column(&k)), &s, &fades);
        let (fade, written, whole) = (fades.since(), fades.until_end() * &s, column(&g.sum_keepdims(3).exp()));
        let nth = |a: &Array, i: i32| a.slice_axis(2, i..i + 1).squeeze(2);
        let mut parts = Vec::new();
        for i in 0..q.dim(2) {
            parts.push(nth(fade, i) * nth(&q, i).matmul(&column(&state)) + nth(&inside, i));
            state = nth(&whole, i) * state + column(&nth(&written, i)).matmul(&nth(&k, i));
        }
        out.push(mx::concatenate(&parts, 2).slice_axis(2, 0..tokens));
    }
    (mx::concatenate(&out, 2), state)
}

/// What tokens i of a chunk find of tokens j <= i, slot by slot: sum of w_ij s_j e^(decay from behind j to i), for w
/// [.., C, C] and s [.., C, M].
fn found(w: &Array, s: &Array, fades: &Fades) -> Array {
    let n = s.dim(-2) / 2;
    if n == 0 {
        return w * s;
    }
    let block = |i: i32, j: i32| half(w, i).slice_axis(-1, j * n..(j + 1) * n);
    let within = found(&mx::stack(&[block(0, 0), block(1, 1)], -3), &s.unflatten(-2, [2, n]), fades);
    let (to, from) = fades.across(s, n, true);
    let part = |i: i32| within.slice_axis(-3, i..i + 1).squeeze(-3);
    mx::concatenate(&[part(0), part(1) + to * block(1, 0).matmul(&(half(s, 0) * from))], -2)
}

impl Gsa {
    fn map(&self, x: Array) -> Array {
        match (&self.spec.feature_map, &self.feature_map) {
            (Some(SlotMap::Act(f)), _) => activation::apply(*f, &x),
            (Some(SlotMap::Learned), Some(layer)) => nn::relu(&layer.forward(&x)),
            _ => x,
        }
    }
}

impl Mixer for Gsa {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let (s, p) = (&self.spec, &self.heads);
        let slots = cache.slots();
        let [q, k, v] = p.forward_silu(x, slots, 2);
        let v = if self.g_norm.is_some() { nn::silu(&v) } else { v };
        let (q, k) = (self.map(p.queries(&q)), p.spread(self.map(p.keys(&k))));
        let v = p.spread(p.keys(&v));
        let g = p.spread(log_decay(&p.keys(&self.f_proj.forward(x)), s.normalizer));
        let states = [slots.take(0), slots.take(1)];
        let (o, states) = attend([&q, &k, &v, &g], s.scale, states);
        for (i, state) in states.into_iter().enumerate() {
            slots.set(i, state);
        }
        slots.advance(x.dim(1));
        let o = o.astype(x.dtype()).transpose([0, 2, 1, 3]).flatten(-2, -1);
        let o = match (&self.g_norm, &self.g_proj) {
            (Some(norm), _) => norm.forward(&nn::silu(&o)),
            (_, Some(gate)) => nn::swiglu(&gate.forward(x), &o),
            _ => o,
        };
        self.o_proj.forward(&o)
    }
}
