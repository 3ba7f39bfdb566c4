//! Choosing elements: `where`, `take`, slices.

use crate::dtype::Dtype;
use crate::error::refuse;
use crate::scalar::{Operand, pair, single};
use crate::{Array, ffi};
use mlx_sys as sys;
use std::ops::Range;

/// `x` where `condition` is true, else `y`.
#[track_caller]
pub fn where_(condition: impl Operand, x: impl Operand, y: impl Operand) -> Array {
    let c = single("where", &condition);
    let (x, y) = pair("where", &x, &y);
    // SAFETY: valid handles
    ffi::op("where", &[&c, &x, &y], |res, s| unsafe { sys::mlx_where(res, c.raw, x.raw, y.raw, s) })
}

#[track_caller]
fn check_indices(op: &str, indices: &Array) {
    if !indices.dtype().is_integer() {
        refuse(op, format!("indices must be integers, not {}", indices.dtype()));
    }
}

/// Indices made safe for an axis of `n` elements: those out of range are clipped. MLX itself wraps negative ones.
pub(crate) fn safe_indices(indices: &Array, n: i32) -> Array {
    if known_inside(indices, n) {
        return indices.clone();
    }
    let (first, last) = (-(n as i128), (n as i128 - 1).max(0));
    let (low, high): (i128, i128) = match indices.dtype() {
        Dtype::Uint8 => (0, 255),
        Dtype::Uint16 => (0, 65535),
        Dtype::Int8 => (-128, 127),
        Dtype::Int16 => (-32768, 32767),
        Dtype::Uint32 | Dtype::Uint64 => (0, i128::MAX),
        _ => (i128::MIN, i128::MAX),
    };
    let mut safe = indices.clone();
    if low < first {
        safe = safe.maximum(first);
    }
    if high > last {
        safe = safe.minimum(last);
    }
    safe
}

/// Whether a few index values lie on the host, to be seen at once: then nothing has to be clipped.
fn known_inside(indices: &Array, n: i32) -> bool {
    static HOST: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let host = HOST.get_or_init(|| !crate::cuda_is_available() && !crate::metal_is_available());
    if !host || indices.size() > 256 || !indices.is_available() {
        return false;
    }
    let inside = |bytes: &[u8]| match indices.dtype() {
        Dtype::Int32 => bytes.chunks_exact(4).all(|b| (-n..n).contains(&bytemuck::pod_read_unaligned::<i32>(b))),
        Dtype::Uint32 => bytes.chunks_exact(4).all(|b| bytemuck::pod_read_unaligned::<u32>(b) < n.max(0) as u32),
        Dtype::Int64 => {
            let range = -i64::from(n)..i64::from(n);
            bytes.chunks_exact(8).all(|b| range.contains(&bytemuck::pod_read_unaligned::<i64>(b)))
        }
        _ => false,
    };
    indices.available_bytes().is_some_and(inside)
}

/// Slices of `a` at `indices` along `axis`; `None` over the flat array.
///
/// Negative indices count from the end; indices out of range are clipped to the axis.
#[track_caller]
pub fn take(a: &Array, indices: &Array, axis: impl Into<Option<i32>>) -> Array {
    check_indices("take", indices);
    let axis = axis.into();
    let n = axis.map_or_else(|| i32::try_from(a.size()).unwrap_or(i32::MAX), |axis| a.dim(axis));
    if n == 0 && indices.size() > 0 {
        refuse("take", format!("cannot take from an empty axis of {:?}", a.shape()));
    }
    let i = safe_indices(indices, n);
    // SAFETY: valid handles; indices are in range
    ffi::op("take", &[a, &i], |res, s| unsafe {
        match axis {
            None => sys::mlx_take(res, a.raw, i.raw, s),
            Some(axis) => sys::mlx_take_axis(res, a.raw, i.raw, axis, s),
        }
    })
}

/// One element of `a` per index along `axis`, other axes side by side (`mx.take_along_axis`); `None` over the flat array.
///
/// Negative indices count from the end; indices out of range are clipped.
#[track_caller]
pub fn take_along_axis(a: &Array, indices: &Array, axis: impl Into<Option<i32>>) -> Array {
    check_indices("take_along_axis", indices);
    let Some(axis) = axis.into() else {
        return take_along_axis(&a.reshape(-1), indices, 0);
    };
    let n = a.dim(axis);
    if n == 0 && indices.size() > 0 {
        refuse("take_along_axis", format!("cannot take from an empty axis of {:?}", a.shape()));
    }
    let i = safe_indices(indices, n);
    // SAFETY: valid handles; indices are in range
    ffi::op("take_along_axis", &[a, &i], |res, s| unsafe { sys::mlx_take_along_axis(res, a.raw, i.raw, axis, s) })
}

/// `a` with `values` at `indices` along `axis` (`mx.put_along_axis`); indices as in [`take_along_axis`].
#[track_caller]
pub fn put_along_axis(a: &Array, indices: &Array, values: impl Operand, axis: impl Into<Option<i32>>) -> Array {
    if a.size() == 0 && indices.size() == 0 {
        return a.clone();
    }
    check_indices("put_along_axis", indices);
    let Some(axis) = axis.into() else {
        return put_along_axis(&a.reshape(-1), indices, values, 0).reshape(a.shape());
    };
    let n = a.dim(axis);
    if n == 0 && indices.size() > 0 {
        refuse("put_along_axis", format!("cannot put into an empty axis of {:?}", a.shape()));
    }
    let i = safe_indices(indices, n);
    let (_, v) = pair("put_along_axis", &a, &values);
    // SAFETY: valid handles; indices are in range
    ffi::op("put_along_axis", &[a, &i, &v], |res, s| unsafe {
        sys::mlx_put_along_axis(res, a.raw, i.raw, v.raw, axis, s)
    })
}

impl Array {
    /// Rows at `indices` along `axis`: see [`take`].
    #[track_caller]
    #[must_use]
    pub fn take(&self, indices: &Array, axis: impl Into<Option<i32>>) -> Array {
        take(self, indices, axis)
    }

    /// `range` of one axis; negative ends count from the end, ends out of range are clipped.
    #[track_caller]
    #[must_use]
    pub fn slice_axis(&self, axis: i32, range: Range<i32>) -> Array {
        let n = self.dim(axis);
        let axis = if axis < 0 { axis + self.ndim() as i32 } else { axis } as usize;
        let clip = |i: i32| if i < 0 { (i + n).max(0) } else { i.min(n) };
        let (mut start, mut stop) =
            (smallvec::SmallVec::<[i32; 6]>::from_elem(0, self.ndim()), crate::Shape::from(self.shape()).0);
        (start[axis], stop[axis]) = (clip(range.start), clip(range.end).max(clip(range.start)));
        self.slice(&start, &stop)
    }

    /// `start..stop` on each axis, which the caller has brought into range.
    #[track_caller]
    pub(crate) fn slice(&self, start: &[i32], stop: &[i32]) -> Array {
        let strides = smallvec::SmallVec::<[i32; 6]>::from_elem(1, self.ndim());
        // SAFETY: valid handles; pointers and lengths of live slices, strides are 1
        ffi::op("slice", &[self], |res, s| unsafe {
            sys::mlx_slice(
                res,
                self.raw,
                start.as_ptr(),
                start.len(),
                stop.as_ptr(),
                stop.len(),
                strides.as_ptr(),
                strides.len(),
                s,
            )
        })
    }

    /// Writes `update` into `range` of one axis, in place when no other handle shares the buffer.
    ///
    /// The old handle is gone when this returns, so that the next evaluation can reuse its buffer.
    #[track_caller]
    pub fn update_axis(&mut self, axis: i32, range: Range<i32>, update: &Array) {
        let n = self.dim(axis);
        let axis = if axis < 0 { axis + self.ndim() as i32 } else { axis } as usize;
        if range.start < 0 || range.end > n || range.start > range.end {
            refuse("update_axis", format!("range {range:?} of axis {axis} is out of {:?}", self.shape()));
        }
        let (mut start, mut stop) =
            (smallvec::SmallVec::<[i32; 6]>::from_elem(0, self.ndim()), crate::Shape::from(self.shape()).0);
        (start[axis], stop[axis]) = (range.start, range.end);
        let strides = smallvec::SmallVec::<[i32; 6]>::from_elem(1, self.ndim());
        let update = update.astype(self.dtype());
        // SAFETY: valid handles; pointers and lengths of live slices, strides are 1
        let new = ffi::op("slice_update", &[self, &update], |res, s| unsafe {
            sys::mlx_slice_update(
                res,
                self.raw,
                update.raw,
                start.as_ptr(),
                start.len(),
                stop.as_ptr(),
                stop.len(),
                strides.as_ptr(),
                strides.len(),
                s,
            )
        });
        *self = new;
    }
}
