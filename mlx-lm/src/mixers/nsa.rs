//! Native sparse attention: the means of past blocks, the tokens of the blocks that matter, and a sliding window.

use super::attention::split_heads;
use super::history::{History, Queries, best};
use super::{Mixer, rope::Rope};
use crate::Result;
use crate::blueprint::{self, NsaBlocks};
use crate::cache::Cache;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

/// Sparse attention over [`blueprint::Nsa`].
#[derive(Module)]
pub struct Nsa {
    q_proj: Leaf<Linear>,
    k_proj: Leaf<Linear>,
    v_proj: Leaf<Linear>,
    g_proj: Leaf<Linear>,
    o_proj: Leaf<Linear>,
    #[module(skip)]
    rope: Option<Rope>,
    #[module(skip)]
    spec: blueprint::Nsa,
}

pub(super) fn build(s: &blueprint::Nsa, leaves: &Leaves) -> Result<Nsa> {
    Ok(Nsa {
        q_proj: leaves.linear("q_proj", s.hidden, s.heads * s.head_dim, s.bias)?,
        k_proj: leaves.linear("k_proj", s.hidden, s.kv_heads * s.head_dim, s.bias)?,
        v_proj: leaves.linear("v_proj", s.hidden, s.kv_heads * s.v_head_dim, s.bias)?,
        g_proj: leaves.linear("g_proj", s.hidden, s.heads * 3, false)?,
        o_proj: leaves.linear("o_proj", s.heads * s.v_head_dim, s.hidden, false)?,
        rope: s.rope.as_ref().map(Rope::new),
        spec: s.clone(),
    })
}

/// q [B, H, L, D] and gates g [B, H, L, 3] of compression, selection and window, over all keys: [B, H, L, V].
pub fn attend(q: &Array, g: &Array, past: &History, b: &NsaBlocks) -> Array {
    let scale = (q.dim(-1) as f32).powf(-0.5);
    let (keys, values) = (History::means(&past.keys, b.size), History::means(&past.values, b.size));
    let out: Vec<Array> = past
        .queries(q.dim(2))
        .map(|some| {
            let cut = |a: &Array| a.slice_axis(2, some.from..some.to);
            let (q, g) = (cut(q), cut(g).sigmoid());
            let gate = |i: i32| g.slice_axis(-1, i..i + 1);
            let (means, weights) = compressed(&q, &keys, &values, &some, scale, b.size);
            let chosen = selected(&weights, past.keys.dim(1), &some, b);
            let mask = mx::repeat(&some.tokens(&chosen, b.size), q.dim(1) / past.keys.dim(1), 1);
            let o = past.attend(&q, 0, some.seen, mask, scale) * gate(1) + means.astype(q.dtype()) * gate(0);
            let Some(window) = b.window else { return o };
            let first = some.first(window);
            let near = (mx::arange(first, some.seen, 1, None) + window).greater(&some.at);
            o + past.attend(&q, first, some.seen, some.causal(first).logical_and(near), scale) * gate(2)
        })
        .collect();
    mx::concatenate(&out, 2)
}

/// Attention over the means of the blocks that have ended [B, H, n, V], and its weights [B, H, n, N]; both are 0 before
/// the first block has.
fn compressed(q: &Array, k: &Array, v: &Array, some: &Queries, scale: f32, block: i32) -> (Array, Array) {
    let [b, h, n, _] = q.dims();
    let (groups, blocks) = (k.dim(1), k.dim(2).min(some.seen / block));
    if blocks == 0 {
        return (mx::zeros([b, h, n, v.dim(-1)], Dtype::Float32), mx::zeros([b, h, n, 0], Dtype::Float32));
    }
    let [k, v] = [k, v].map(|a| a.slice_axis(2, 0..blocks).expand_dims(2));
    let q = (q.astype(Dtype::Float32) * scale).reshape([b, groups, h / groups, n, -1]);
    let ended = (mx::arange(1, blocks + 1, 1, None) * block - 1).less_equal(&some.at).expand_dims(1);
    let scores = q.matmul(&k.swapaxes(-1, -2));
    let low = Array::scalar(f32::MIN, Dtype::Float32);
    let zero = Array::scalar(0.0, Dtype::Float32);
    let weights = mx::where_(&ended, mx::softmax(&mx::where_(&ended, scores, &low), -1), &zero);
    (weights.matmul(&v).reshape([b, h, n, -1]), weights.reshape([b, h, n, -1]))
}

/// The blocks of each query, one choice for all heads of a group: bool [B, Hkv, n, N].
fn selected(weights: &Array, groups: i32, some: &Queries, b: &NsaBlocks) -> Array {
    let [rows, heads, n, ended] = weights.dims();
    let mean = weights.reshape([rows, groups, heads / groups, n, ended]).mean(2);
    // one more for an unfinished block
    let all = (some.seen + b.size - 1) / b.size;
    let mean = match all - mean.dim(-1) {
        more if more > 0 => mx::concatenate(&[mean, mx::zeros([rows, groups, n, more], Dtype::Float32)], -1),
        _ => mean.slice_axis(-1, 0..all),
    };
    let block = mx::arange(0, all, 1, None);
    let own = mx::floor_divide(&some.at, b.size);
    let (is_own, is_first, is_before) = (block.eq(&own), block.eq(0), block.eq(&own - 1));
    // no weight exceeds 1
    let rank = |which: &Array, score: f32| which.astype(Dtype::Float32) * score;
    let always = mx::maximum(rank(&is_own, 4.0), mx::maximum(rank(&is_first, 3.0), rank(&is_before, 2.0)));
    best(&mx::maximum(mean, always), &block.less_equal(&own), b.count)
}

impl Mixer for Nsa {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let kv = cache.part(0).kv();
        let (mut q, mut k) =
            (split_heads(&self.q_proj.forward(x), s.heads), split_heads(&self.k_proj.forward(x), s.kv_heads));
        let v = split_heads(&self.v_proj.forward(x), s.kv_heads);
        let g = split_heads(&self.g_proj.forward(x), s.heads);
        if let Some(rope) = &self.rope {
            let at = kv.position();
            (q, k) = (rope.forward(&q, &at), rope.forward(&k, &at));
        }
        let past = History::update(kv, k, v);
        let o = attend(&q, &g, &past, &s.blocks);
        self.o_proj.forward(&o.transpose([0, 2, 1, 3]).flatten(-2, -1))
    }
}
