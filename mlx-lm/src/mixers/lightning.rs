//! Lightning attention: linear attention with a fixed decay per head and layer (bailing_hybrid, bailing_moe_linear).

use super::attention::split_heads;
use super::{Mixer, rope::Rope};
use crate::blueprint::{self, FusedQkv, Projections};
use crate::cache::Cache;
use crate::parts::{Norm, Step};
use crate::weights::Leaves;
use crate::{Error, Result};
use mlx::fast::{self, LinearScan, Rule};
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array};

/// Lightning attention over [`blueprint::Lightning`].
#[derive(Module)]
pub struct Lightning {
    /// q, k, v one by one, or all in one matrix.
    qkv: Leaf<Vec<Leaf<Linear>>>,
    q_norm: Option<Leaf<Norm>>,
    k_norm: Option<Leaf<Norm>>,
    gate: Option<Leaf<Linear>>,
    gate_norm: Option<Leaf<Param>>,
    o_proj: Leaf<Linear>,
    #[module(skip)]
    rope: Option<Rope>,
    /// [1, H, 1, 1]
    #[module(skip)]
    log_decay: Array,
    #[module(skip)]
    spec: blueprint::Lightning,
}

pub(super) fn build(s: &blueprint::Lightning, leaves: &Leaves) -> Result<Lightning> {
    let width = s.heads * s.head_dim;
    let qkv = match &s.projections {
        Projections::Separate { q, k, v } => vec![(q, width), (k, width), (v, width)],
        Projections::Fused { name, layout: FusedQkv::Blocks } => vec![(name, 3 * width)],
        other => {
            let message = format!("projections {other:?}");
            return Err(Error::Unsupported { what: "mixer", name: "lightning".into(), message });
        }
    };
    let qkv =
        qkv.into_iter().map(|(name, out)| leaves.linear(name, s.hidden, out, s.qkv_bias)).collect::<Result<_>>()?;
    let qk_norm = |name: fn(&blueprint::QkNorm) -> &str| {
        s.qk_norm.as_ref().map(|n| Norm::load(leaves, name(n), &n.norm, &[s.head_dim])).transpose()
    };
    let gate = s.gate.as_ref();
    Ok(Lightning {
        qkv: Leaf::new("", qkv),
        q_norm: qk_norm(|n| &n.q)?,
        k_norm: qk_norm(|n| &n.k)?,
        gate: gate.map(|g| leaves.linear(&g.name, s.hidden, width, false)).transpose()?,
        gate_norm: gate.map(|g| leaves.param(&format!("{}.weight", g.norm.0), &[width])).transpose()?,
        o_proj: leaves.linear(&s.o, width, s.hidden, s.o_bias)?,
        rope: s.rope.as_ref().map(Rope::new),
        log_decay: Array::from(slopes(s.heads).map(|m| -m * s.rate).collect::<Vec<_>>()).reshape([1, s.heads, 1, 1]),
        spec: s.clone(),
    })
}

/// ALiBi's slopes (arXiv:2108.12409): a geometric series of as many as the largest power of two; further heads take every
/// other one of the series twice as long.
pub fn slopes(heads: i32) -> impl Iterator<Item = f32> {
    let whole = 1 << heads.max(1).ilog2();
    let series = |n: i32, i: i32| (-8.0 * f64::from(i + 1) / f64::from(n)).exp2() as f32;
    (0..heads).map(move |h| if h < whole { series(whole, h) } else { series(2 * whole, 2 * (h - whole)) })
}

impl Mixer for Lightning {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let [b, l, _] = x.dims();
        let slots = cache.slots();
        let mut qkv: Vec<Array> = self.qkv.iter().map(|p| p.forward(x)).collect();
        if let [all] = &qkv[..] {
            qkv = all.split(3, -1);
        }
        let [q, k, v] = &qkv[..] else { unreachable!("one array of all or one of each") };
        let at = slots.position();
        let turned = |a: &Array, norm: &Option<Leaf<Norm>>| {
            let a = split_heads(a, s.heads);
            let a = norm.as_ref().map_or(a.clone(), |n| n.forward(&a));
            self.rope.as_ref().map_or(a.clone(), |r| r.forward(&a, &at))
        };
        let q = turned(q, &self.q_norm) * (s.head_dim as f32).powf(-0.5);
        let (k, v) = (turned(k, &self.k_norm), split_heads(v, s.heads));
        let g = mx::broadcast_to(&self.log_decay, [b, s.heads, l, 1]);
        // Python mlx-lm keeps the state as [K, V]
        let before = slots.take(0).map(|state| state.swapaxes(-1, -2));
        let rule = Rule::Add { beta: None };
        let (o, state) = fast::linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, before);
        slots.set(0, state.swapaxes(-1, -2));
        slots.advance(l);
        let o = o.astype(x.dtype()).swapaxes(1, 2).flatten(2, 3);
        self.o_proj.forward(&self.gated(o, x))
    }
}

impl Lightning {
    fn gated(&self, o: Array, x: &Array) -> Array {
        let (Some(spec), Some(gate), Some(weight)) = (&self.spec.gate, &self.gate, &self.gate_norm) else { return o };
        let normed = fast::rms_norm(&o.unflatten(-1, [spec.groups, -1]), None, spec.norm.1.eps).flatten(-2, -1);
        normed * weight.value() * gate.forward(x).sigmoid()
    }
}
