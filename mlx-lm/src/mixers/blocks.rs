//! Which keys block-sparse attention sees (phi3small).

use crate::blueprint::BlockSparse;
use crate::cache::Position;
use mlx::fast::Mask;
use mlx::{self as mx, Array, Dtype};

/// What is added to the scores of the next `n` queries: [1 or B, heads, n, T], from their causal mask [.., n, T].
///
/// The grid ends with the last key, as in Python: it depends on how a prompt is cut.
pub fn block_mask(b: &BlockSparse, heads: i32, causal: &Mask, start: &Position, n: i32, dtype: Dtype) -> Mask {
    let Mask::Array(causal) = causal else { return causal.clone() };
    let total = causal.dim(-1);
    // keys of each row, and the padding before them
    let keys = match start {
        Position::At(at) => Array::from([at + n]).reshape([1, 1, 1, 1]),
        Position::Rows(rows) => rows.reshape([-1, 1, 1, 1]) + n,
    };
    let padding = total - &keys;
    let up = |a: Array| mx::floor_divide(a + (b.size - 1), b.size);
    let (key_blocks, query_blocks) = (up(keys), (n + b.size - 1) / b.size);
    let row = mx::arange(query_blocks * b.size - n, query_blocks * b.size, 1, None).reshape([n, 1]);
    let query_block = key_blocks - query_blocks + mx::floor_divide(&row, b.size);
    let place = mx::arange(0, total, 1, None).reshape([1, total]) - padding;
    let key_block = mx::floor_divide(&place, b.size);
    let head = mx::arange(1, heads + 1, 1, None).reshape([heads, 1, 1]);
    let strided = mx::remainder(&key_block + head, b.stride).eq(0);
    let local = (&query_block - &key_block).less(b.local);
    let seen = query_block.greater_equal(&key_block).logical_and(local.logical_or(strided));
    let seen = seen.logical_and(place.greater_equal(0));
    let hidden = Array::scalar(f64::NEG_INFINITY, dtype);
    Mask::Array(mx::where_(&seen, causal.astype(dtype), &hidden))
}
