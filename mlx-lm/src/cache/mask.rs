//! Which keys a query sees, as arrays.

use mlx::{self as mx, Array};

/// What a mask depends on besides the number of queries and the window.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MaskKey {
    pub kind: &'static str,
    pub offset: i32,
    pub size: i32,
    pub head: i32,
    /// Node of the row padding, 0 without.
    pub padding: usize,
}

/// Bool [n, offset + n]: query i sees key j <= i + offset, and with a window only the last `window` of them.
/// With `left_padding` `[B]` the mask is [B, 1, n, offset + n] and hides each row's padding.
pub fn causal_mask(n: i32, offset: i32, window: Option<i32>, left_padding: Option<&Array>) -> Array {
    let keys = mx::arange(0, offset + n, 1, None).expand_dims(0);
    let queries = mx::arange(offset, offset + n, 1, None).expand_dims(1);
    let mut mask = queries.ge(&keys);
    if let Some(w) = window {
        mask = mask.logical_and(queries.lt(&keys + w));
    }
    if let Some(p) = left_padding {
        mask = mask.logical_and(p.reshape([-1, 1, 1, 1]).le(&keys));
    }
    mask
}

/// Bool [n, before + n], as [`causal_mask`], of queries that see only their own chunk of `size` positions; the first key
/// stands where a chunk starts.
pub(super) fn chunk_mask(n: i32, before: i32, size: i32, window: Option<i32>) -> Array {
    let keys = mx::floor_divide(mx::arange(0, before + n, 1, None), size).expand_dims(0);
    let queries = mx::floor_divide(mx::arange(before, before + n, 1, None), size).expand_dims(1);
    causal_mask(n, before, window, None).logical_and(queries.eq(&keys))
}
