//! Attention over pieces of a history, joined exactly: each piece gives its largest score, the sum of its weights and
//! its weighted values, and a later piece with larger scores scales down what came before (online softmax,
//! arXiv:1805.02867).

use super::{Attend, grouped_mask, lowest};
use mlx::fast::Mask;
use mlx::{self as mx, Array, Dtype};

/// Softmax attention of queries whose keys come piece by piece.
pub(super) struct Partial<'a> {
    /// [B, Hkv, H / Hkv * L, D], scaled.
    q: Array,
    /// B, Hkv, H / Hkv, L.
    dims: [i32; 4],
    how: Attend<'a>,
    dtype: Dtype,
    /// Largest score, sum of weights [.., 1] and weighted values [.., Dv] so far, in float32.
    state: Option<(Array, Array, Option<Array>)>,
}

impl<'a> Partial<'a> {
    /// For queries q [B, H, L, D] over keys of `kv_heads` heads.
    pub fn new(q: &Array, kv_heads: i32, how: Attend<'a>) -> Self {
        let [b, h, l, d] = q.dims();
        let dims = [b, kv_heads, h / kv_heads, l];
        // a sink is a score of its own whose value is zero
        let state = how.sinks.map(|sinks| {
            let scores = sinks.astype(Dtype::Float32).reshape([1, kv_heads, h / kv_heads, 1]);
            let scores = mx::broadcast_to(&scores, dims).reshape([b, kv_heads, -1, 1]);
            let weights = mx::ones_like(&scores);
            (scores, weights, None)
        });
        let scaled = (q * how.scale).reshape([b, kv_heads, h / kv_heads * l, d]);
        Partial { q: scaled, dims, how, dtype: q.dtype(), state }
    }

    /// Adds keys and values [B, Hkv, T, D], the first of which stands at `at`; `before` tokens preceded the queries.
    pub fn add(&mut self, keys: &Array, values: &Array, at: i32, before: i32) {
        let [b, kv_heads, groups, l] = self.dims;
        let len = keys.dim(2);
        let mut scores = self.q.matmul(&keys.swapaxes(-1, -2)).astype(Dtype::Float32);
        if let Some(cap) = self.how.softcap {
            scores = (scores / cap).tanh() * cap;
        }
        if let Some(mask) = self.mask(at, len, before) {
            let each = scores.reshape([b, kv_heads, groups, l, len]);
            let mask = grouped_mask(&mask, kv_heads, groups);
            let masked = match mask.dtype() {
                Dtype::Bool => mx::where_(&mask, &each, lowest(&each)),
                _ => each + mask,
            };
            scores = masked.reshape([b, kv_heads, groups * l, len]);
        }
        // a piece that is hidden as a whole has finite scores too, and so no weight once others are seen
        let mut top = scores.max_keepdims(-1).maximum(lowest(&scores));
        let before = self.state.take();
        if let Some((old, ..)) = &before {
            top = top.maximum(old);
        }
        let weights = (scores - &top).exp();
        let (mut sum, mut value) = (weights.sum_keepdims(-1), weights.astype(values.dtype()).matmul(values));
        value = value.astype(Dtype::Float32);
        if let Some((old, old_sum, old_value)) = before {
            let less = (old - &top).exp();
            sum = sum + old_sum * &less;
            if let Some(old_value) = old_value {
                value = value + old_value * less;
            }
        }
        self.state = Some((top, sum, Some(value)));
    }

    /// What hides some of the keys at..at + len; `None` when all queries see all of them.
    fn mask(&self, at: i32, len: i32, before: i32) -> Option<Array> {
        let l = self.dims[3];
        match self.how.mask {
            Mask::None => None,
            Mask::Causal if at + len <= before + 1 => None,
            Mask::Causal => {
                let queries = mx::arange(before, before + l, 1, None).expand_dims(1);
                Some(queries.ge(mx::arange(at, at + len, 1, None)))
            }
            Mask::Array(m) if m.dim(-1) == 1 => Some(m.clone()),
            Mask::Array(m) => Some(m.slice_axis(-1, at..at + len)),
        }
    }

    /// The attention's output [B, H, L, Dv].
    pub fn finish(self) -> Array {
        let [b, kv_heads, groups, l] = self.dims;
        let Some((_, sum, Some(value))) = self.state else { unreachable!("a query sees itself at least") };
        (value / sum).astype(self.dtype).reshape([b, kv_heads * groups, l, -1])
    }
}
