//! Products of several arrays beyond `matmul`.

use crate::Array;
use crate::dtype::Dtype;
use crate::error::refuse;
use crate::ffi::{self, VectorArray};
use mlx_sys as sys;
use std::borrow::Borrow;
use std::ffi::CString;

/// Inner product over the last axes.
#[track_caller]
pub fn inner(a: &Array, b: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("inner", &[a, b], |res, s| unsafe { sys::mlx_inner(res, a.raw, b.raw, s) })
}

/// Kronecker product.
#[track_caller]
pub fn kron(a: &Array, b: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("kron", &[a, b], |res, s| unsafe { sys::mlx_kron(res, a.raw, b.raw, s) })
}

/// Dot products along one axis of both; the first argument is conjugated.
#[track_caller]
pub fn vecdot(a: &Array, b: &Array, axis: i32) -> Array {
    // SAFETY: valid handles
    ffi::op("vecdot", &[a, b], |res, s| unsafe { sys::mlx_vecdot(res, a.raw, b.raw, axis, s) })
}

/// The axes that [`tensordot`] sums over: the last `n` with the first `n`, or pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contract {
    Count(i32),
    Pairs(Vec<i32>, Vec<i32>),
}

impl From<i32> for Contract {
    fn from(n: i32) -> Self {
        Contract::Count(n)
    }
}
impl<A: Into<Vec<i32>>, B: Into<Vec<i32>>> From<(A, B)> for Contract {
    fn from((a, b): (A, B)) -> Self {
        Contract::Pairs(a.into(), b.into())
    }
}

/// Sums products over axes of `a` paired with axes of `b` (Python's default is `2`).
#[track_caller]
pub fn tensordot(a: &Array, b: &Array, axes: impl Into<Contract>) -> Array {
    // SAFETY: valid handles; pointers and lengths of live vectors
    ffi::op("tensordot", &[a, b], |res, s| unsafe {
        match axes.into() {
            Contract::Count(n) => sys::mlx_tensordot_axis(res, a.raw, b.raw, n, s),
            Contract::Pairs(x, y) => sys::mlx_tensordot(res, a.raw, b.raw, x.as_ptr(), x.len(), y.as_ptr(), y.len(), s),
        }
    })
}

/// Einstein summation: `einsum("ij,jk->ik", &[&a, &b])`.
#[track_caller]
pub fn einsum<A: Borrow<Array>>(subscripts: &str, operands: &[A]) -> Array {
    let refs: smallvec::SmallVec<[&Array; 4]> = operands.iter().map(Borrow::borrow).collect();
    let letters = subscripts.chars().all(|c| c.is_ascii_alphabetic() || " ,.->".contains(c));
    if refs.is_empty() || !letters {
        refuse("einsum", format!("subscripts {subscripts:?} with {} operands", refs.len()));
    }
    let text = CString::new(subscripts).unwrap_or_default();
    let v = VectorArray::from_arrays(refs.iter().copied());
    // SAFETY: valid handles and string
    ffi::op("einsum", &refs, |res, s| unsafe { sys::mlx_einsum(res, text.as_ptr(), v.raw, s) })
}

/// Masks of [`block_masked_mm`]: one number or bool for each block.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockMasks<'a> {
    pub out: Option<&'a Array>,
    pub lhs: Option<&'a Array>,
    pub rhs: Option<&'a Array>,
}

/// Matrix product whose blocks of `block_size` (32 or 64) are scaled or left out by masks.
#[track_caller]
pub fn block_masked_mm(a: &Array, b: &Array, block_size: i32, masks: BlockMasks<'_>) -> Array {
    if !matches!(block_size, 32 | 64) {
        refuse("block_masked_mm", format!("block size {block_size} is not 32 or 64"));
    }
    let (o, l, r) = (ffi::nullable(masks.out), ffi::nullable(masks.lhs), ffi::nullable(masks.rhs));
    // SAFETY: valid or null handles where null is allowed
    ffi::op("block_masked_mm", &[a, b], |res, s| unsafe {
        sys::mlx_block_masked_mm(res, a.raw, b.raw, block_size, o, l, r, s)
    })
}

/// For each segment [start, stop) of the inner axis the product `a[:, start:stop] @ b[start:stop]`.
///
/// Ends outside of the axis are clipped to it; a stop before its start is an empty segment.
#[track_caller]
pub fn segmented_mm(a: &Array, b: &Array, segments: &Array) -> Array {
    let fits = a.ndim() == 2 && b.ndim() == 2 && a.dim(1) == b.dim(0);
    if !fits || !segments.dtype().is_integer() || segments.ndim() == 0 || segments.dim(-1) != 2 {
        let (a, b, s) = (a.shape(), b.shape(), segments.shape());
        refuse("segmented_mm", format!("{a:?} and {b:?} with segments {s:?} {}", segments.dtype()));
    }
    let ends = segments.astype(Dtype::Int64).maximum(0).minimum(a.dim(1));
    let start = ends.i((crate::ELLIPSIS, 0..1));
    let ends = crate::concatenate(&[&start, &ends.i((crate::ELLIPSIS, 1..2)).maximum(&start)], -1);
    // SAFETY: valid handles; the segments lie within the inner axis
    ffi::op("segmented_mm", &[a, b], |res, s| unsafe { sys::mlx_segmented_mm(res, a.raw, b.raw, ends.raw, s) })
}

/// Hadamard transform of the last axis (m 2^k with m in 1, 12, 20, 28); the scale's default is 1 / sqrt(n).
#[track_caller]
pub fn hadamard_transform(a: &Array, scale: Option<f32>) -> Array {
    let scale = ffi::optional_float(scale);
    // SAFETY: valid handles
    ffi::op("hadamard_transform", &[a], |res, s| unsafe { sys::mlx_hadamard_transform(res, a.raw, scale, s) })
}
