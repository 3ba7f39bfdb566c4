//! Matrix products.

use crate::error::refuse;
use crate::scalar::{Operand, pair};
use crate::{Array, ffi};
use mlx_sys as sys;

/// Matrix product over the last two axes, others broadcast.
#[track_caller]
pub fn matmul(a: &Array, b: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("matmul", &[a, b], |res, s| unsafe { sys::mlx_matmul(res, a.raw, b.raw, s) })
}

/// alpha * (a @ b) + beta * c.
#[track_caller]
pub fn addmm(c: &Array, a: &Array, b: &Array, alpha: f32, beta: f32) -> Array {
    // SAFETY: valid handles
    ffi::op("addmm", &[c, a, b], |res, s| unsafe { sys::mlx_addmm(res, c.raw, a.raw, b.raw, alpha, beta, s) })
}

/// Products of chosen matrices: `a[lhs] @ b[rhs]` with batch indices.
///
/// Indices are over the flat batch axes of `a` and `b`; those out of range are undefined by MLX and wrapped here.
#[track_caller]
pub fn gather_mm(a: &Array, b: &Array, lhs: Option<&Array>, rhs: Option<&Array>, sorted: bool) -> Array {
    if a.size() == 0 || b.size() == 0 {
        refuse("gather_mm", format!("no elements in {:?} or {:?}", a.shape(), b.shape()));
    }
    let (l, r) = (batch_indices("gather_mm", a, lhs), batch_indices("gather_mm", b, rhs));
    let (l, r) = (ffi::nullable(l.as_ref()), ffi::nullable(r.as_ref()));
    // SAFETY: valid or null handles where null is allowed; indices are in range
    ffi::op("gather_mm", &[a, b], |res, s| unsafe { sys::mlx_gather_mm(res, a.raw, b.raw, l, r, sorted, s) })
}

/// Indices of batch matrices, clipped to the number of matrices.
#[track_caller]
pub(crate) fn batch_indices(op: &str, a: &Array, indices: Option<&Array>) -> Option<Array> {
    let i = indices?;
    if !i.dtype().is_integer() {
        refuse(op, format!("indices must be integers, not {}", i.dtype()));
    }
    let n: i64 = a.shape().iter().rev().skip(2).map(|&d| d as i64).product();
    Some(i.minimum(n.max(1) - 1).maximum(0))
}

/// Outer product of two vectors.
#[track_caller]
pub fn outer(a: impl Operand, b: impl Operand) -> Array {
    let (a, b) = pair("outer", &a, &b);
    // SAFETY: valid handles
    ffi::op("outer", &[&a, &b], |res, s| unsafe { sys::mlx_outer(res, a.raw, b.raw, s) })
}

impl Array {
    /// Matrix product (`self @ other`).
    #[track_caller]
    #[must_use]
    pub fn matmul(&self, other: &Array) -> Array {
        matmul(self, other)
    }
}
