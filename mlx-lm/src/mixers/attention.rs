//! Softmax attention over grouped KV heads (llama, qwen, gemma, ... and `full_attention` of composed models).

use super::{Mixer, block_index::BlockIndex, blocks::block_mask, gate::Gate, rope::Rope};
use crate::Result;
use crate::blueprint::{self, CacheKind, FusedQkv, KvShare, OutputGate, Projections, QkNormKind};
use crate::cache::{Attend, Cache, Position, Slots, sdpa};
use crate::parts::{Around, Norm, SharedKv, Step};
use crate::weights::Leaves;
use mlx::fast::{DecodeAttention, Fused, Layer, Matrix};
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array, Dtype};

/// Attention with every switch of [`blueprint::Attention`].
#[derive(Module)]
pub struct Attention {
    q_proj: Option<Leaf<Linear>>,
    k_proj: Option<Leaf<Linear>>,
    v_proj: Option<Leaf<Linear>>,
    qkv_proj: Option<Leaf<Linear>>,
    o_proj: Leaf<Linear>,
    q_norm: Option<Leaf<Norm>>,
    k_norm: Option<Leaf<Norm>>,
    sinks: Option<Leaf<Param>>,
    q_gain: Option<Leaf<Param>>,
    o_norm: Option<Leaf<Norm>>,
    k_step: Option<Leaf<Param>>,
    v_step: Option<Leaf<Param>>,
    k_taps: Option<Leaf<Param>>,
    v_taps: Option<Leaf<Param>>,
    gate: Option<Leaf<Gate>>,
    index: Option<Leaf<BlockIndex>>,
    #[module(skip)]
    v_norm: Option<Norm>,
    #[module(skip)]
    head_norm: Option<Norm>,
    #[module(skip)]
    rope: Option<Rope>,
    #[module(skip)]
    spec: blueprint::Attention,
}

/// Under which names a layer leaves its projected keys and values.
const PROJECTED: [&str; 2] = ["projected keys", "projected values"];

pub(super) fn build(s: &blueprint::Attention, leaves: &Leaves) -> Result<Attention> {
    let v_dim = s.v_head_dim.unwrap_or(s.head_dim);
    let doubled = if s.gate == Some(OutputGate::InQuery) { 2 } else { 1 };
    let (q_rows, k_rows, v_rows) = (s.heads * s.head_dim * doubled, s.kv_heads * s.head_dim, s.kv_heads * v_dim);
    let linear = |name: &str, out: i32| leaves.linear(name, s.hidden, out, s.qkv_bias);
    let (mut q_proj, mut k_proj, mut v_proj, mut qkv_proj) = (None, None, None, None);
    match &s.projections {
        Projections::Separate { q, k, v } => {
            (q_proj, k_proj, v_proj) = (Some(linear(q, q_rows)?), Some(linear(k, k_rows)?), Some(linear(v, v_rows)?));
        }
        Projections::KeyIsValue { q, k } => (q_proj, k_proj) = (Some(linear(q, q_rows)?), Some(linear(k, k_rows)?)),
        Projections::Query { q } => q_proj = Some(linear(q, q_rows)?),
        Projections::Fused { name, .. } => qkv_proj = Some(linear(name, q_rows + k_rows + v_rows)?),
    }
    let qk_norm = |name: &str, heads: i32| match &s.qk_norm {
        None => Ok(None),
        Some(n) => {
            let shape: &[i32] = match n.kind {
                QkNormKind::PerHead => &[s.head_dim],
                QkNormKind::FullWidth => &[heads * s.head_dim],
                QkNormKind::RowPerHead => &[heads, s.head_dim],
            };
            Norm::load(leaves, name, &n.norm, shape).map(Some)
        }
    };
    let names = s.qk_norm.as_ref().map_or(("", ""), |n| (n.q.as_str(), n.k.as_str()));
    Ok(Attention {
        q_proj,
        k_proj,
        v_proj,
        qkv_proj,
        o_proj: leaves.linear(&s.o, s.heads * v_dim, s.hidden, s.o_bias)?,
        q_norm: qk_norm(names.0, s.heads)?,
        k_norm: if matches!(s.share, KvShare::Take(_)) { None } else { qk_norm(names.1, s.kv_heads)? },
        o_norm: s.o_norm.as_ref().map(|(name, n)| Norm::load(leaves, name, n, &[s.heads * v_dim])).transpose()?,
        k_step: s.kv_rounding.as_ref().map(|(k, _)| leaves.param(k, &[])).transpose()?,
        v_step: s.kv_rounding.as_ref().map(|(_, v)| leaves.param(v, &[])).transpose()?,
        k_taps: s.kv_conv.as_ref().map(|(k, _)| leaves.param(k, &[1, 1, s.kv_heads, 1, 2])).transpose()?,
        v_taps: s.kv_conv.as_ref().map(|(_, v)| leaves.param(v, &[1, 1, s.kv_heads, 1, 2])).transpose()?,
        q_gain: s.q_gain.as_ref().map(|name| leaves.param(name, &[s.heads])).transpose()?,
        sinks: s.sinks.as_ref().map(|name| leaves.param(name, &[s.heads])).transpose()?,
        gate: Gate::load(s.gate.as_ref(), leaves, s.hidden, s.heads, v_dim)?,
        index: s.index.as_ref().map(|i| BlockIndex::load(i, s.hidden, leaves)).transpose()?,
        v_norm: s.v_norm.as_ref().map(Norm::plain).transpose()?,
        head_norm: s.head_norm.as_ref().map(Norm::plain).transpose()?,
        rope: s.rope.as_ref().map(Rope::new),
        spec: s.clone(),
    })
}

/// Factors on the next `n` queries: [n, 1], or [B, 1, n, 1] with a position per row.
pub(super) fn query_factor(f: &blueprint::QueryScale, position: &Position, n: i32) -> Array {
    let at = position.range(n).astype(Dtype::Float32);
    let steps = ((at + f.shift) / f.every).floor();
    let factor = 1.0 + f.beta * (1.0 + steps).log();
    if factor.ndim() == 2 { factor.expand_dims([1, 3]) } else { factor.expand_dims(-1) }
}

/// [B, L, H * D] -> [B, H, L, D]
pub(super) fn split_heads(x: &Array, heads: i32) -> Array {
    let [b, l, _] = x.dims();
    x.reshape([b, l, heads, -1]).transpose([0, 2, 1, 3])
}

/// Heads [B, a * b, L, D] in the order of b first.
fn regroup(x: &Array, a: i32, b: i32) -> Array {
    x.unflatten(1, [a, b]).swapaxes(1, 2).flatten(1, 2)
}

/// x rounded to multiples of a step that a signed byte counts.
fn eight_bits(x: &Array, step: &Array) -> Array {
    let counts = (x.astype(Dtype::Float32) / step).round(0);
    (mx::clip(counts, Some(-128.0), Some(127.0)) * step).astype(x.dtype())
}

/// y[t] = x[t - 1] * taps[0] + x[t] * taps[1] for x [B, H, L, D], taps [1, 1, H, 1, 2]; slot `i` holds the token before x.
fn two_taps(x: &Array, taps: &Array, slots: &mut Slots, i: usize) -> Array {
    let [b, h, l, d] = x.dims();
    let before = slots.take(i).unwrap_or_else(|| mx::zeros([b, h, 1, d], x.dtype()));
    let earlier = mx::concatenate(&[before, x.slice_axis(2, 0..l - 1)], 2);
    slots.set(i, mx::contiguous(&x.slice_axis(2, l - 1..l)));
    let taps = taps.reshape([h, 2]);
    let tap = |n: i32| taps.slice_axis(1, n..n + 1).reshape([h, 1, 1]);
    earlier * tap(0) + x * tap(1)
}

impl Attention {
    /// Attention of own queries over the keys and values of an earlier layer.
    fn forward_shared(&self, x: &Array, step: &Step, name: &str) -> Array {
        let s = &self.spec;
        let Some(shared) = step.get_kv(name) else { panic!("no earlier layer left keys and values named {name}") };
        let Some(q_proj) = &self.q_proj else { unreachable!("built with a query projection") };
        let mut q = split_heads(&q_proj.forward(x), s.heads);
        let after_rope = s.qk_norm.as_ref().is_some_and(|n| n.after_rope);
        let norm = |q: Array, now: bool| match &self.q_norm {
            Some(n) if now => n.forward_rows(&q),
            _ => q,
        };
        q = norm(q, !after_rope);
        if let Some(rope) = &self.rope {
            q = rope.forward(&q, &shared.position);
        }
        q = norm(q, after_rope);
        let how = Attend { scale: s.scale, mask: &shared.mask, sinks: None, softcap: s.softcap };
        let o = sdpa(&q, &shared.keys, &shared.values, how);
        self.o_proj.forward(&o.transpose([0, 2, 1, 3]).flatten(2, 3))
    }

    /// Flat queries, keys, values [B, L, rows].
    fn project(&self, x: &Array) -> (Array, Array, Array) {
        let s = &self.spec;
        if let (Some(q), Some(k), Some(v)) = (&self.q_proj, &self.k_proj, &self.v_proj) {
            let [q, k, v] = Linear::forward_all([q, k, v], x);
            return (q, k, v);
        }
        if let (Some(q), Some(k)) = (&self.q_proj, &self.k_proj) {
            let k = k.forward(x);
            return (q.forward(x), k.clone(), k);
        }
        let Some(fused) = &self.qkv_proj else { unreachable!("built with separate or fused projections") };
        let layout = match &s.projections {
            Projections::Fused { layout, .. } => *layout,
            _ => FusedQkv::Blocks,
        };
        let y = fused.forward(x);
        let [b, l, _] = y.dims();
        let (d, vd) = (s.head_dim, s.v_head_dim.unwrap_or(s.head_dim));
        let parts = |y: &Array, q: i32, k: i32| {
            let mut p = y.split_at(&[q, q + k], -1).into_iter();
            match (p.next(), p.next(), p.next()) {
                (Some(q), Some(k), Some(v)) => (q, k, v),
                _ => unreachable!("split at two places gives three parts"),
            }
        };
        match layout {
            FusedQkv::Blocks => parts(&y, s.heads * d, s.kv_heads * d),
            FusedQkv::PerHead | FusedQkv::PerKvGroup => {
                let per_group = if layout == FusedQkv::PerHead { 1 } else { s.heads / s.kv_heads };
                let (q, k, v) = parts(&y.reshape([b, l, s.kv_heads, (per_group + 1) * d + vd]), per_group * d, d);
                (q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3))
            }
        }
    }
}

impl Mixer for Attention {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let [b, l, _] = x.dims();
        if let KvShare::Take(name) = &s.share {
            return self.forward_shared(x, step, name);
        }
        let (mut q, mut k, mut v) = match (&s.share, &self.q_proj) {
            (KvShare::TakeProjected, Some(q)) => match (step.get(PROJECTED[0]), step.get(PROJECTED[1])) {
                (Some(k), Some(v)) => (q.forward(x), k, v),
                _ => panic!("no earlier layer left projected keys and values"),
            },
            _ => self.project(x),
        };
        if s.share == KvShare::LeaveProjected {
            step.put(PROJECTED[0], k.clone());
            step.put(PROJECTED[1], v.clone());
        }
        if let Some(clip) = s.clip_qkv {
            for a in [&mut q, &mut k, &mut v] {
                *a = mx::clip(&*a, Some(-clip), Some(clip));
            }
        }
        let mut gate = None;
        if s.gate == Some(OutputGate::InQuery) {
            let halves = q.reshape([b, l, s.heads, -1]).split(2, -1);
            (q, gate) = (halves[0].flatten(2, 3), Some(halves[1].flatten(2, 3).sigmoid()));
        }
        let full_width = s.qk_norm.as_ref().is_some_and(|n| n.kind == QkNormKind::FullWidth);
        let norm = |n: &Option<Leaf<Norm>>, a: Array| n.as_ref().map_or(a.clone(), |n| n.forward(&a));
        if full_width {
            (q, k) = (norm(&self.q_norm, q), norm(&self.k_norm, k));
        }
        let (mut q, mut k, mut v) =
            (split_heads(&q, s.heads), split_heads(&k, s.kv_heads), split_heads(&v, s.kv_heads));
        let after_rope = s.qk_norm.as_ref().is_some_and(|n| n.after_rope);
        // a row per head: [H, 1, D] against [B, H, L, D]
        let per_head = |n: &Option<Leaf<Norm>>, a: Array| n.as_ref().map_or(a.clone(), |n| n.forward_rows(&a));
        if !full_width && !after_rope {
            (q, k) = (per_head(&self.q_norm, q), per_head(&self.k_norm, k));
        }
        if let Some(n) = &self.v_norm {
            v = n.forward(&v);
        }
        if let Some(scale) = s.value_scale {
            v = v * scale;
        }
        let mut chosen = None;
        let cache = if let (Some(k_taps), Some(v_taps)) = (&self.k_taps, &self.v_taps) {
            let slots = cache.part(0).slots();
            k = two_taps(&k, k_taps.value(), slots, 0);
            v = two_taps(&v, v_taps.value(), slots, 1);
            cache.part(1)
        } else if let Some(index) = &self.index {
            let causal = step.mask_with(cache.part(0).kv(), l, s.window, true);
            let (keys, seen) = index.choose(x, &causal, cache.part(1).kv(), s.heads);
            // index keys are computed with this step, lest their graph grow from step to step
            if let [with] = mx::depends(&[&k], &[&keys]).as_slice() {
                k = with.clone();
            }
            chosen = Some(seen);
            cache.part(0)
        } else if matches!(s.cache, CacheKind::List(_)) {
            cache.part(0)
        } else {
            cache
        };
        let kv = cache.kv();
        let start = kv.position();
        let factor = s.query_scale.as_ref().map(|f| query_factor(f, &start, l));
        if let Some(rope) = &self.rope {
            (q, k) = (rope.forward(&q, &start), rope.forward(&k, &start));
        }
        if !full_width && after_rope {
            (q, k) = (per_head(&self.q_norm, q), per_head(&self.k_norm, k));
        }
        if let (Some(k_step), Some(v_step)) = (&self.k_step, &self.v_step) {
            (k, v) = (eight_bits(&k, k_step.value()), eight_bits(&v, v_step.value()));
        }
        if let Some(f) = factor {
            q = &q * f.astype(q.dtype());
        }
        if let Some(g) = &self.q_gain {
            q = &q * g.astype(q.dtype()).reshape([-1, 1, 1]);
        }
        let mask = match (chosen, &s.blocks) {
            (Some(mask), _) => mask,
            (None, None) => step.mask(kv, l, s.window),
            (None, Some(b)) => block_mask(b, s.heads, &step.mask_with(kv, l, None, true), &start, l, q.dtype()),
        };
        let dtype = q.dtype();
        if s.f32_scores {
            (q, k) = (q.astype(Dtype::Float32), k.astype(Dtype::Float32));
        }
        let sinks = self.sinks.as_ref().map(|s| s.astype(q.dtype()));
        if s.tiled_kv {
            q = regroup(&q, s.heads / s.kv_heads, s.kv_heads);
        }
        let how = Attend { scale: s.scale, mask: &mask, sinks: sinks.as_ref(), softcap: s.softcap };
        let mut o = match &s.share {
            KvShare::Leave(name) => {
                let (keys, values) = kv.update(k, v);
                let o = sdpa(&q, &keys, &values, how);
                step.put_kv(name, SharedKv { keys, values, mask: mask.clone(), position: start });
                o
            }
            _ => kv.attend(&q, k, v, how),
        };
        if s.tiled_kv {
            o = regroup(&o, s.kv_heads, s.heads / s.kv_heads);
        }
        let mut o = o.astype(dtype).transpose([0, 2, 1, 3]);
        if let Some(n) = &self.head_norm {
            o = n.forward(&o);
        }
        let mut o = match &self.gate {
            Some(g) => g.apply(o, x),
            None => o.reshape([b, l, -1]),
        };
        if let Some(g) = gate {
            o = o * g;
        }
        if let Some(n) = &self.o_norm {
            o = n.forward(&o);
        }
        self.o_proj.forward(&o)
    }

    fn fused(&self, x: &Array, around: &Around<'_>, cache: &mut dyn Cache) -> Option<Array> {
        let s = &self.spec;
        let plain = s.gate.is_none()
            && s.share == KvShare::None
            && !s.tiled_kv
            && self.q_gain.is_none()
            && self.o_norm.is_none()
            && self.head_norm.is_none()
            && self.k_step.is_none()
            && self.k_taps.is_none()
            && s.blocks.is_none()
            && s.index.is_none()
            && s.clip_qkv.is_none()
            && self.v_norm.is_none()
            && !s.f32_scores
            && s.value_scale.is_none()
            && s.query_scale.is_none()
            && s.v_head_dim.is_none_or(|d| d == s.head_dim);
        let cache = cache.as_decode().filter(|_| plain)?;
        let o_proj = self.o_proj.matrix()?;
        let norms = match (&s.qk_norm, &self.q_norm, &self.k_norm) {
            (None, ..) => None,
            (Some(n), Some(q), Some(k)) if n.kind == QkNormKind::PerHead && !n.after_rope => Some((q.rms()?, k.rms()?)),
            _ => return None,
        };
        let rotation = match &self.rope {
            Some(r) => Some(r.rotation()?),
            None => None,
        };
        let sinks = self.sinks.as_ref().map(|s| s.value());
        let step = DecodeAttention {
            heads: s.heads,
            kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            scale: s.scale,
            rotation,
            qk_norm: norms.as_ref().map(|(q, k)| (&q.0, &k.0, q.1)),
            window: s.window,
            softcap: s.softcap,
            sinks,
            next: around.next[0],
        };
        if !cache.is_decodable(x.dim(0), x.dtype(), &step) {
            return None;
        }
        let inward = Fused { norm: Some(around.norm), next: [Some(o_proj.weight), None], ..Default::default() };
        let parts: &[Matrix<'_>] = match (&self.q_proj, &self.k_proj, &self.v_proj, &self.qkv_proj, &s.projections) {
            (Some(q), Some(k), Some(v), ..) => &[q.matrix()?, k.matrix()?, v.matrix()?],
            (.., Some(qkv), Projections::Fused { layout: FusedQkv::Blocks, .. }) => &[qkv.matrix()?],
            _ => return None,
        };
        let before = Layer { parts, around: inward };
        Some(cache.decode(x, before, &step, Layer { parts: &[o_proj], around: around.after(x) }))
    }

    fn first_weights(&self) -> [Option<&Array>; 2] {
        fn of(l: &Option<Leaf<Linear>>) -> Option<&Array> {
            l.as_ref().map(|l| l.weight())
        }
        if self.q_proj.is_some() { [of(&self.q_proj), of(&self.k_proj)] } else { [of(&self.qkv_proj), None] }
    }
}
