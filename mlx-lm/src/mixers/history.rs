//! Keys and values in blocks, counted from each row's first token.

use crate::cache::{Attend, Kv, Position, sdpa};
use mlx::fast::Mask;
use mlx::{self as mx, Array, Dtype};

/// Queries whose masks exist at the same time.
const TOGETHER: i32 = 64;

/// Everything that new queries may see: keys and values [B, Hkv, T, D], key j at position j of its row.
pub struct History {
    pub keys: Array,
    pub values: Array,
    /// Where the first new token stands.
    pub start: Position,
}

/// Some of the new queries.
pub struct Queries {
    /// Which of the new tokens they are.
    pub from: i32,
    pub to: i32,
    /// Their positions, int32 [1 or B, 1, n, 1].
    pub at: Array,
    /// No key from here on is seen by any of them, none before `first` by a window.
    pub seen: i32,
    start: Option<i32>,
}

impl History {
    /// Appends k, v to a cache that keeps all tokens.
    pub fn update(kv: &mut dyn Kv, k: Array, v: Array) -> History {
        let (start, new) = (kv.position(), k.dim(2));
        let (keys, values) = kv.update(k, v);
        let t = keys.dim(2);
        let Position::Rows(rows) = &start else { return History { keys, values, start } };
        // the padding before a row's first token goes behind its last one, where no query looks
        let padding = (t - new) - rows;
        let from = mx::minimum(padding.expand_dims(-1) + mx::arange(0, t, 1, None), t - 1).expand_dims([1, 3]);
        let shift = |a: &Array| {
            let [b, h, t, d] = a.dims();
            mx::take_along_axis(a, &mx::broadcast_to(&from, [b, h, t, d]), 2)
        };
        History { keys: shift(&keys), values: shift(&values), start }
    }

    /// All keys as new ones.
    pub fn new(keys: Array, values: Array) -> History {
        History { keys, values, start: Position::At(0) }
    }

    /// The `n` new queries, some at a time.
    pub fn queries(&self, n: i32) -> impl Iterator<Item = Queries> + '_ {
        (0..n).step_by(TOGETHER as usize).map(move |from| {
            let to = (from + TOGETHER).min(n);
            let all = self.start.range(n);
            let at = all.slice_axis(-1, from..to);
            let at = if at.ndim() == 1 { at.expand_dims([0, 1, 3]) } else { at.expand_dims([1, 3]) };
            let start = match self.start {
                Position::At(start) => Some(start + from),
                Position::Rows(_) => None,
            };
            let seen = start.map_or(self.keys.dim(2), |s| s + to - from);
            Queries { from, to, at, seen, start }
        })
    }

    /// Means [B, Hkv, N, D] of the whole blocks of keys or values `a`, in float32.
    pub fn means(a: &Array, block: i32) -> Array {
        let n = a.dim(2) / block;
        a.slice_axis(2, 0..n * block).astype(Dtype::Float32).unflatten(2, [n, block]).mean(3)
    }

    /// Attention of q [B, H, n, D] over keys from `first` on where `mask` [.., n, seen - first] allows it.
    pub fn attend(&self, q: &Array, first: i32, seen: i32, mask: Array, scale: f32) -> Array {
        let cut = |a: &Array| a.slice_axis(2, first..seen);
        let how = Attend { scale, mask: &Mask::Array(mask), sinks: None, softcap: None };
        sdpa(q, &cut(&self.keys), &cut(&self.values), how)
    }
}

impl Queries {
    /// The first key that a window of this many tokens reaches.
    pub fn first(&self, window: i32) -> i32 {
        self.start.map_or(0, |s| (s + 1 - window).max(0))
    }
    /// Which keys from `first` on are not later than the query: bool [1 or B, 1, n, seen - first].
    pub fn causal(&self, first: i32) -> Array {
        mx::arange(first, self.seen, 1, None).less_equal(&self.at)
    }
    /// The keys of some blocks: bool [.., n, N] -> [.., n, seen].
    pub fn tokens(&self, blocks: &Array, block: i32) -> Array {
        let n = blocks.dim(-1) * block;
        let all = mx::repeat(blocks, block, -1);
        let seen = if n > self.seen { all.slice_axis(-1, 0..self.seen) } else { all };
        seen.logical_and(self.causal(0))
    }
}

/// The `n` entries of the last axis with the highest scores, among those where `which` is true.
pub fn best(scores: &Array, which: &Array, n: i32) -> Array {
    if n >= scores.dim(-1) {
        return mx::broadcast_to(which, scores.shape());
    }
    let low = Array::scalar(f32::NEG_INFINITY, Dtype::Float32);
    let scores = mx::where_(which, scores, &low);
    let order = mx::argsort(&-scores, -1);
    mx::argsort(&order, -1).less(n).logical_and(which)
}
