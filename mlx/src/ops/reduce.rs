//! Reductions and scans.

use crate::dtype::Dtype;
use crate::error::refuse;
use crate::shape::Axes;
use crate::{Array, ffi};
use mlx_sys as sys;
use smallvec::SmallVec;

#[track_caller]
pub(crate) fn resolve(op: &str, a: &Array, axes: impl Into<Axes>) -> SmallVec<[i32; 6]> {
    match axes.into().resolve(a.ndim()) {
        Ok(axes) => axes,
        Err(axis) => refuse(op, format!("axis {axis} is out of range for shape {:?}", a.shape())),
    }
}

/// What a reduction over no elements gives; MLX's CPU kernels can loop for ever on it.
#[derive(Clone, Copy)]
enum Empty {
    Zero,
    One,
    Nan,
    /// Built by MLX from other ops, or refused by it.
    Mlx,
}

/// `reduced`, unless `a` has no elements: then the constant that it would have.
#[track_caller]
fn unless_empty(a: &Array, reduced: Array, empty: Empty) -> Array {
    if a.size() != 0 {
        return reduced;
    }
    let value = match empty {
        Empty::Zero => 0.0,
        Empty::One => 1.0,
        Empty::Nan => f64::NAN,
        Empty::Mlx if reduced.size() != 0 => return reduced,
        Empty::Mlx => 0.0,
    };
    crate::full(reduced.shape(), Array::scalar(value, reduced.dtype()), None)
}

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident, $keep:ident = $c:ident, $empty:ident;)*) => {
        $(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(a: &Array, axes: impl Into<Axes>) -> Array {
                let axes = resolve(stringify!($name), a, axes);
                // SAFETY: valid handles; axes are in range
                let r = ffi::op(stringify!($name), &[a], |res, s| unsafe { sys::$c(res, a.raw, axes.as_ptr(), axes.len(), false, s) });
                unless_empty(a, r, Empty::$empty)
            }
            #[doc = concat!("[`", stringify!($name), "`] that keeps the reduced axes with size 1 (`keepdims=True`).")]
            #[track_caller]
            pub fn $keep(a: &Array, axes: impl Into<Axes>) -> Array {
                let axes = resolve(stringify!($name), a, axes);
                // SAFETY: as above
                let r = ffi::op(stringify!($name), &[a], |res, s| unsafe { sys::$c(res, a.raw, axes.as_ptr(), axes.len(), true, s) });
                unless_empty(a, r, Empty::$empty)
            }
        )*
        impl Array {
            $(
                $(#[$doc])*
                #[track_caller]
                #[must_use]
                pub fn $name(&self, axes: impl Into<Axes>) -> Array { $name(self, axes) }
                #[doc = concat!("[`", stringify!($name), "`](Self::", stringify!($name), ") that keeps the reduced axes with size 1 (`keepdims=True`).")]
                #[track_caller]
                #[must_use]
                pub fn $keep(&self, axes: impl Into<Axes>) -> Array { $keep(self, axes) }
            )*
        }
    };
}

reductions! {
    /// Sum over the axes; small integers and bools are summed as int32 or uint32.
    sum, sum_keepdims = mlx_sum_axes, Zero;
    /// Product over the axes.
    prod, prod_keepdims = mlx_prod_axes, One;
    /// Mean over the axes.
    mean, mean_keepdims = mlx_mean_axes, Nan;
    /// Largest element; NaN wins.
    max, max_keepdims = mlx_max_axes, Mlx;
    /// Smallest element; NaN wins.
    min, min_keepdims = mlx_min_axes, Mlx;
    /// Whether all are non-zero.
    all, all_keepdims = mlx_all_axes, One;
    /// Whether any is non-zero.
    any, any_keepdims = mlx_any_axes, Zero;
    /// ln of the sum of exponentials, without overflow.
    logsumexp, logsumexp_keepdims = mlx_logsumexp_axes, Mlx;
    /// Median over the axes.
    median, median_keepdims = mlx_median_axes, Nan;
    /// Number of non-zero elements.
    count_nonzero, count_nonzero_keepdims = mlx_count_nonzero_axes, Zero;
}

macro_rules! spread {
    ($($(#[$doc:meta])* $name:ident, $with:ident = $c:ident;)*) => {
        $(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(a: &Array, axes: impl Into<Axes>) -> Array { $with(a, axes, false, 0) }
            #[doc = concat!("[`", stringify!($name), "`](fn@", stringify!($name), ") with `keepdims` and the divisor n - `ddof`.")]
            #[track_caller]
            pub fn $with(a: &Array, axes: impl Into<Axes>, keepdims: bool, ddof: i32) -> Array {
                let axes = resolve(stringify!($name), a, axes);
                // SAFETY: valid handles; axes are in range
                let r = ffi::op(stringify!($name), &[a], |res, s| unsafe { sys::$c(res, a.raw, axes.as_ptr(), axes.len(), keepdims, ddof, s) });
                unless_empty(a, r, Empty::Nan)
            }
        )*
        impl Array { $(
            $(#[$doc])*
            #[track_caller]
            #[must_use]
            pub fn $name(&self, axes: impl Into<Axes>) -> Array { $name(self, axes) }
        )* }
    };
}
spread! {
    /// Variance over the axes (divisor n).
    var, var_with = mlx_var_axes;
    /// Standard deviation over the axes (divisor n).
    std, std_with = mlx_std_axes;
}

macro_rules! arg_reductions {
    ($($(#[$doc:meta])* $name:ident, $keep:ident = $all:ident, $axis:ident;)*) => {
        $(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(a: &Array, axis: impl Into<Option<i32>>) -> Array { $keep(a, axis, false) }
            #[doc = concat!("[`", stringify!($name), "`] with `keepdims`.")]
            #[track_caller]
            pub fn $keep(a: &Array, axis: impl Into<Option<i32>>, keepdims: bool) -> Array {
                // SAFETY: valid handles
                ffi::op(stringify!($name), &[a], |res, s| unsafe {
                    match axis.into() {
                        None => sys::$all(res, a.raw, keepdims, s),
                        Some(axis) => sys::$axis(res, a.raw, axis, keepdims, s),
                    }
                })
            }
        )*
        impl Array { $(
            $(#[$doc])*
            #[track_caller]
            #[must_use]
            pub fn $name(&self, axis: impl Into<Option<i32>>) -> Array { $name(self, axis) }
        )* }
    };
}
arg_reductions! {
    /// Index (uint32) of the largest element along `axis`; `None` over the flat array.
    argmax, argmax_with = mlx_argmax, mlx_argmax_axis;
    /// Index (uint32) of the smallest element along `axis`; `None` over the flat array.
    argmin, argmin_with = mlx_argmin, mlx_argmin_axis;
}

/// How a scan runs: Python's `reverse`, `inclusive` and `dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    pub reverse: bool,
    pub inclusive: bool,
    /// Dtype of a running sum or product; others ignore it.
    pub dtype: Option<Dtype>,
}

impl Default for Scan {
    fn default() -> Self {
        Scan { reverse: false, inclusive: true, dtype: None }
    }
}

macro_rules! scans {
    ($($(#[$doc:meta])* $name:ident, $with:ident = $all:ident, $axis:ident $(, $dtype:ident)?;)*) => {
        $(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(a: &Array, axis: impl Into<Option<i32>>) -> Array { $with(a, axis, Scan::default()) }
            #[doc = concat!("[`", stringify!($name), "`] in another direction, or exclusive.")]
            #[track_caller]
            pub fn $with(a: &Array, axis: impl Into<Option<i32>>, scan: Scan) -> Array {
                // SAFETY: valid handles
                ffi::op(stringify!($name), &[a], |res, s| unsafe {
                    match axis.into() {
                        None => sys::$all(res, a.raw, scan.reverse, scan.inclusive $(, ffi::optional_dtype(scan.$dtype))?, s),
                        Some(axis) => sys::$axis(res, a.raw, axis, scan.reverse, scan.inclusive $(, ffi::optional_dtype(scan.$dtype))?, s),
                    }
                })
            }
        )*
        impl Array { $(
            $(#[$doc])*
            #[track_caller]
            #[must_use]
            pub fn $name(&self, axis: impl Into<Option<i32>>) -> Array { $name(self, axis) }
        )* }
    };
}
scans! {
    /// Running sum along `axis`; `None` over the flat array.
    cumsum, cumsum_with = mlx_cumsum, mlx_cumsum_axis, dtype;
    /// Running product.
    cumprod, cumprod_with = mlx_cumprod, mlx_cumprod_axis, dtype;
    /// Running maximum.
    cummax, cummax_with = mlx_cummax, mlx_cummax_axis;
    /// Running minimum.
    cummin, cummin_with = mlx_cummin, mlx_cummin_axis;
    /// Running logsumexp.
    logcumsumexp, logcumsumexp_with = mlx_logcumsumexp, mlx_logcumsumexp_axis;
}

/// Softmax over the axes.
#[track_caller]
pub fn softmax(a: &Array, axes: impl Into<Axes>) -> Array {
    softmax_with(a, axes, false)
}

/// Softmax that with `precise` computes in float32 whatever the dtype.
#[track_caller]
pub fn softmax_with(a: &Array, axes: impl Into<Axes>, precise: bool) -> Array {
    let axes = resolve("softmax", a, axes);
    if a.size() == 0 {
        return if a.dtype().is_inexact() { a.clone() } else { a.astype(Dtype::Float32) };
    }
    // SAFETY: valid handles; axes are in range
    ffi::op("softmax", &[a], |res, s| unsafe {
        sys::mlx_softmax_axes(res, a.raw, axes.as_ptr(), axes.len(), precise, s)
    })
}

impl Array {
    /// Softmax over the axes.
    #[track_caller]
    #[must_use]
    pub fn softmax(&self, axes: impl Into<Axes>) -> Array {
        softmax(self, axes)
    }
}
