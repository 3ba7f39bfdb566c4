//! Gather, scatter and slices at positions that arrays hold. [Indexing](crate::indexing) is built on these.
//!
//! Index values count from the end when negative and are clipped to their axis.

use crate::error::refuse;
use crate::ffi::{self, VectorArray};
use crate::ops::safe_indices;
use crate::shape::Shape;
use crate::{Array, scalar::Operand, scalar::pair};
use mlx_sys as sys;
use smallvec::SmallVec;

#[track_caller]
fn checked(op: &str, a: &Array, indices: &[&Array], axes: &[i32]) -> SmallVec<[Array; 4]> {
    if indices.len() != axes.len() {
        refuse(op, format!("{} index arrays for axes {axes:?}", indices.len()));
    }
    let each = indices.iter().zip(axes).map(|(i, &axis)| {
        if !i.dtype().is_integer() {
            refuse(op, format!("indices must be integers, not {}", i.dtype()));
        }
        if axis < 0 || axis as usize >= a.ndim() || a.dim(axis) == 0 {
            refuse(op, format!("cannot index axis {axis} of shape {:?}", a.shape()));
        }
        safe_indices(i, a.dim(axis))
    });
    each.collect()
}

/// Slices of `slice_sizes` whose starts on `axes` the index arrays give: the shape of the indices, then of a slice.
///
/// A slice that would end beyond its axis is moved back into it.
#[track_caller]
pub fn gather(a: &Array, indices: &[&Array], axes: &[i32], slice_sizes: impl Into<Shape>) -> Array {
    let sizes = slice_sizes.into();
    let fits = sizes.len() == a.ndim() && sizes.iter().zip(a.shape()).all(|(&s, &d)| 0 <= s && s <= d);
    if !fits {
        refuse("gather", format!("slices of {:?} from shape {:?}", &sizes[..], a.shape()));
    }
    let mut safe = checked("gather", a, indices, axes);
    for (i, &axis) in safe.iter_mut().zip(axes) {
        let (n, size) = (a.dim(axis), sizes[axis as usize]);
        if size > 1 {
            *i = within(i, n, size);
        }
    }
    let list = VectorArray::from_arrays(&safe);
    // SAFETY: valid handles; pointers and lengths of live slices; indices are in range
    ffi::op("gather", &[a], |res, s| unsafe {
        sys::mlx_gather(res, a.raw, list.raw, axes.as_ptr(), axes.len(), sizes.as_ptr(), sizes.len(), s)
    })
}

/// Starts on an axis of `n` from which `size` elements fit; negative ones count from the end first.
fn within(start: &Array, n: i32, size: i32) -> Array {
    let start = if start.dtype().is_unsigned() { start.clone() } else { crate::where_(start.lt(0), start + n, start) };
    start.minimum(n - size)
}

macro_rules! scatters {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array, indices: &[&Array], updates: &Array, axes: &[i32]) -> Array {
            let op = stringify!($name);
            let mut safe = checked(op, a, indices, axes);
            let shapes: SmallVec<[&[i32]; 4]> = indices.iter().map(|i| i.shape()).collect();
            let width = crate::broadcast_shapes(&shapes).len();
            if updates.ndim() != width + a.ndim() {
                refuse(op, format!("updates {:?} for indices {shapes:?} into {:?}", updates.shape(), a.shape()));
            }
            for (i, &axis) in safe.iter_mut().zip(axes) {
                let (n, size) = (a.dim(axis), updates.shape()[width + axis as usize]);
                if size > n {
                    refuse(op, format!("updates {:?} are larger than {:?}", updates.shape(), a.shape()));
                }
                if size > 1 {
                    *i = within(i, n, size);
                }
            }
            if updates.size() == 0 {
                return a.clone();
            }
            let list = VectorArray::from_arrays(&safe);
            // SAFETY: valid handles; pointer and length of a live slice; indices are in range
            ffi::op(op, &[a, updates], |res, s| unsafe {
                sys::$c(res, a.raw, list.raw, updates.raw, axes.as_ptr(), axes.len(), s)
            })
        }
    )* };
}
scatters! {
    /// `a` with slices replaced by `updates` [indices..., slice...]; of repeated positions one wins.
    scatter = mlx_scatter;
    /// [`scatter`] that adds.
    scatter_add = mlx_scatter_add;
    /// [`scatter`] that multiplies.
    scatter_prod = mlx_scatter_prod;
    /// [`scatter`] that keeps the larger.
    scatter_max = mlx_scatter_max;
    /// [`scatter`] that keeps the smaller.
    scatter_min = mlx_scatter_min;
}

/// Adds `values` at `indices` along one axis, other axes side by side.
#[track_caller]
pub fn scatter_add_axis(a: &Array, indices: &Array, values: impl Operand, axis: i32) -> Array {
    let n = a.dim(axis);
    if !indices.dtype().is_integer() || n == 0 && indices.size() > 0 {
        refuse("scatter_add_axis", format!("indices {} into shape {:?}", indices.dtype(), a.shape()));
    }
    if indices.size() == 0 {
        return a.clone();
    }
    let (i, (_, v)) = (safe_indices(indices, n), pair("scatter_add_axis", a, &values));
    // SAFETY: valid handles; indices are in range
    ffi::op("scatter_add_axis", &[a, &i, &v], |res, s| unsafe {
        sys::mlx_scatter_add_axis(res, a.raw, i.raw, v.raw, axis, s)
    })
}

/// `a` with `values`, in order, where `mask` is true; one value serves all places.
///
/// Too few values are noticed when the result is computed, which then fails.
#[track_caller]
pub fn masked_scatter(a: &Array, mask: &Array, values: &Array) -> Array {
    if values.size() == 0 && a.size() != 0 && mask.size() != 0 {
        refuse("masked_scatter", format!("no values for a mask of {:?}", mask.shape()));
    }
    // SAFETY: valid handles; MLX checks shapes now and the number of values when it evaluates
    let new = ffi::op("masked_scatter", &[a, mask, values], |res, s| unsafe {
        sys::mlx_masked_scatter(res, a.raw, mask.raw, values.raw, s)
    });
    crate::pending::may_fail([&new]);
    new
}

/// Starts made safe for slices of `sizes` on `axes`; MLX adds them up without checks.
#[track_caller]
fn starts(op: &str, a: &Array, start: &Array, axes: &[i32], sizes: &[i32]) -> Array {
    let n = a.ndim() as i32;
    if !start.dtype().is_integer() || start.ndim() != 1 || start.size() != axes.len() {
        refuse(op, format!("start {:?} {} for axes {axes:?}", start.shape(), start.dtype()));
    }
    let axis_of = |axis: i32| if axis < 0 { axis + n } else { axis };
    let mut last: SmallVec<[i64; 6]> = SmallVec::new();
    for &axis in axes {
        let k = axis_of(axis);
        if k < 0 || k >= n {
            refuse(op, format!("axis {axis} is out of range for shape {:?}", a.shape()));
        }
        last.push((a.dim(k) - sizes[k as usize]) as i64);
    }
    if last.is_empty() {
        return start.clone();
    }
    let last = Array::from(&last[..]);
    start.astype(crate::Dtype::Int64).maximum(0).minimum(last).astype(crate::Dtype::Int32)
}

/// `slice_size` elements from positions that `start` `[axes]` gives (`mx.slice`); the slice is moved into the array.
#[track_caller]
pub fn slice(a: &Array, start: &Array, axes: &[i32], slice_size: impl Into<Shape>) -> Array {
    let sizes = slice_size.into();
    if sizes.len() != a.ndim() || sizes.iter().zip(a.shape()).any(|(&s, &d)| s < 0 || s > d) {
        refuse("slice", format!("slices of {:?} from shape {:?}", &sizes[..], a.shape()));
    }
    let start = starts("slice", a, start, axes, &sizes);
    // SAFETY: valid handles; pointers and lengths of live slices; the slice lies within the array
    ffi::op("slice", &[a], |res, s| unsafe {
        sys::mlx_slice_dynamic(res, a.raw, start.raw, axes.as_ptr(), axes.len(), sizes.as_ptr(), sizes.len(), s)
    })
}

/// `a` with `update` at positions that `start` `[axes]` gives (`mx.slice_update`); the place is moved into the array.
#[track_caller]
pub fn slice_update(a: &Array, update: &Array, start: &Array, axes: &[i32]) -> Array {
    let (n, shape) = (a.ndim(), update.shape());
    let missing = n.saturating_sub(shape.len());
    // axes that the update lacks: one place on those that `start` positions, all of the others
    let positioned = |i: usize| axes.iter().any(|&axis| axis == i as i32 || axis == i as i32 - n as i32);
    let mut sizes: SmallVec<[i32; 6]> = (0..missing).map(|i| if positioned(i) { 1 } else { a.shape()[i] }).collect();
    sizes.extend_from_slice(shape);
    if shape.len() > n || sizes.iter().zip(a.shape()).any(|(&s, &d)| s > d) {
        refuse("slice_update", format!("update {shape:?} of shape {:?}", a.shape()));
    }
    let start = starts("slice_update", a, start, axes, &sizes);
    // SAFETY: valid handles; pointer and length of a live slice; the place lies within the array
    ffi::op("slice_update", &[a, update], |res, s| unsafe {
        sys::mlx_slice_update_dynamic(res, a.raw, update.raw, start.raw, axes.as_ptr(), axes.len(), s)
    })
}
