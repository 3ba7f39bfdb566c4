//! Order: sorting, partitioning, the largest elements, places in sorted vectors.

use crate::{Array, ffi};
use mlx_sys as sys;

macro_rules! sorts {
    ($($(#[$doc:meta])* $name:ident = $all:ident, $axis:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array, axis: impl Into<Option<i32>>) -> Array {
            // SAFETY: valid handles
            ffi::op(stringify!($name), &[a], |res, s| unsafe {
                match axis.into() {
                    None => sys::$all(res, a.raw, s),
                    Some(axis) => sys::$axis(res, a.raw, axis, s),
                }
            })
        }
    )* };
}
sorts! {
    /// Ascending order along `axis`, NaN last; `None` over the flat array.
    sort = mlx_sort, mlx_sort_axis;
    /// Indices (uint32) that sort along `axis`.
    argsort = mlx_argsort, mlx_argsort_axis;
}

macro_rules! partitions {
    ($($(#[$doc:meta])* $name:ident = $all:ident, $axis:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array, k: i32, axis: impl Into<Option<i32>>) -> Array {
            // SAFETY: valid handles
            ffi::op(stringify!($name), &[a], |res, s| unsafe {
                match axis.into() {
                    None => sys::$all(res, a.raw, k, s),
                    Some(axis) => sys::$axis(res, a.raw, k, axis, s),
                }
            })
        }
    )* };
}
partitions! {
    /// Element `k` in its sorted place, smaller ones before, larger ones after, both unordered.
    partition = mlx_partition, mlx_partition_axis;
    /// Indices of [`partition`].
    argpartition = mlx_argpartition, mlx_argpartition_axis;
    /// The `k` largest elements, unordered.
    topk = mlx_topk, mlx_topk_axis;
}

/// On which side of equal elements [`searchsorted`] inserts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    #[default]
    Left,
    Right,
}

/// Where (uint32) to insert `values` into an ascending vector to keep it ascending.
#[track_caller]
pub fn searchsorted(sorted: &Array, values: &Array, side: Side) -> Array {
    let side = match side {
        Side::Left => c"left",
        Side::Right => c"right",
    };
    // SAFETY: valid handles and string
    ffi::op("searchsorted", &[sorted, values], |res, s| unsafe {
        sys::mlx_searchsorted(res, sorted.raw, values.raw, side.as_ptr(), s)
    })
}
