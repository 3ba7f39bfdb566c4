//! Gated slot attention: keys and values go into slots that forget; queries read them by a softmax over the slots.

use super::Mixer;
use super::heads::{Projections, log_decay};
use crate::Result;
use crate::blueprint::{self, SlotMap, SlotOutput};
use crate::cache::Cache;
use crate::ffn::activation;
use crate::parts::{Norm, Step};
use crate::weights::Leaves;
use mlx::fast::{LinearScan, Rule, linear_scan, slot_scan};
use mlx::nn::{self, Leaf, Linear, Module};
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

/// Both passes: q, k [B, H, L, K], v [B, H, L, V], log-decays g [B, H, L, M] to o [B, H, L, V] in float32 and the states
/// [B, H, M, K] and [B, H, V, M].
///
/// `Sk = diag(e^g) Sk + s k^T` and `Sv = Sv diag(e^g) + v s^T` with s = 1 - e^g; `o = Sv softmax(scale Sk q)`.
pub fn attend([q, k, v, g]: [&Array; 4], scale: f32, states: [Option<Array>; 2]) -> (Array, [Array; 2]) {
    let f = |a: &Array| a.astype(Dtype::Float32);
    let (q, k, g) = (f(q) * scale, f(k), f(g));
    let s = -g.expm1();
    let [keys, values] = states;
    let (scores, keys) = slot_scan(&q, &k, &s, &g, keys);
    let a = mx::softmax(&scores, -1);
    let rule = Rule::Add { beta: None };
    let (o, values) = linear_scan(&LinearScan { q: &a, k: &s, v, g: &g, rule }, values);
    (o, [keys, values])
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
