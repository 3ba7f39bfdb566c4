//! Diagonals, differences and grids.

use crate::dtype::Dtype;
use crate::error::refuse;
use crate::ffi::{self, VectorArray};
use crate::{Array, shape::Shape};
use mlx_sys as sys;
use std::borrow::Borrow;

/// A vector as diagonal `k` of a matrix, or diagonal `k` of a matrix as a vector.
#[track_caller]
pub fn diag(a: &Array, k: i32) -> Array {
    if a.ndim() == 1 {
        let n = a.dim(0) as i64 + k.unsigned_abs() as i64;
        super::check_shape("diag", &[i32::try_from(n).unwrap_or(-1); 2]);
    }
    // SAFETY: valid handles
    ffi::op("diag", &[a], |res, s| unsafe { sys::mlx_diag(res, a.raw, k, s) })
}

/// Diagonal `offset` of the planes of two axes, as a new last axis (Python's default: 0, 0, 1).
#[track_caller]
pub fn diagonal(a: &Array, offset: i32, axis1: i32, axis2: i32) -> Array {
    // SAFETY: valid handles
    ffi::op("diagonal", &[a], |res, s| unsafe { sys::mlx_diagonal(res, a.raw, offset, axis1, axis2, s) })
}

/// Sum of a diagonal (Python's default: 0, 0, 1, `None`); `None` sums small integers as int32 or uint32.
#[track_caller]
pub fn trace(a: &Array, offset: i32, axis1: i32, axis2: i32, dtype: Option<Dtype>) -> Array {
    let d = diagonal(a, offset, axis1, axis2);
    d.astype(dtype.unwrap_or(a.dtype())).sum(-1)
}

/// Differences of neighbours along `axis`, `n` times (Python's default: 1, -1).
#[track_caller]
pub fn diff(a: &Array, n: i32, axis: i32) -> Array {
    // after as many steps as there are elements nothing is left
    let n = if a.ndim() == 0 { n } else { n.min(a.dim(axis)) };
    // SAFETY: valid handles
    ffi::op("diff", &[a], |res, s| unsafe { sys::mlx_diff(res, a.raw, n, axis, s) })
}

/// Which axis the first array of [`meshgrid`] runs along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GridIndexing {
    /// The second axis, as in plots.
    #[default]
    Xy,
    /// The first axis, as in matrices.
    Ij,
}

/// Coordinates of a grid from one vector per axis; `sparse` leaves size 1 where a coordinate does not change.
#[track_caller]
pub fn meshgrid<A: Borrow<Array>>(arrays: &[A], sparse: bool, indexing: GridIndexing) -> Vec<Array> {
    let refs: smallvec::SmallVec<[&Array; 4]> = arrays.iter().map(Borrow::borrow).collect();
    let v = VectorArray::from_arrays(refs.iter().copied());
    let indexing = match indexing {
        GridIndexing::Xy => c"xy",
        GridIndexing::Ij => c"ij",
    };
    // SAFETY: valid handles and string
    ffi::op_many("meshgrid", &refs, |res, s| unsafe { sys::mlx_meshgrid(res, v.raw, sparse, indexing.as_ptr(), s) })
}

macro_rules! windows {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(m: i32) -> Array {
            super::check_shape(stringify!($name), &[m.max(0)]);
            // SAFETY: a plain number
            ffi::op(stringify!($name), &[], |res, s| unsafe { sys::$c(res, m, s) })
        }
    )* };
}
windows! {
    /// Bartlett (triangular) window of `m` points.
    bartlett = mlx_bartlett;
    /// Blackman window of `m` points.
    blackman = mlx_blackman;
    /// Hamming window of `m` points.
    hamming = mlx_hamming;
    /// Hann window of `m` points.
    hanning = mlx_hanning;
}

/// Product of the sizes of some axes as a 0-d array (1 / product if `inverted`), which shapeless compilation traces.
#[track_caller]
pub fn number_of_elements(a: &Array, axes: impl Into<Shape>, inverted: bool, dtype: Dtype) -> Array {
    let axes = axes.into();
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("number_of_elements", &[a], |res, s| unsafe {
        sys::mlx_number_of_elements(res, a.raw, axes.as_ptr(), axes.len(), inverted, dtype.raw(), s)
    })
}

/// `a` with explicit strides and offset, all in elements, into its row-major form.
///
/// # Safety
/// Every position `offset + sum(i_k * strides_k)` for indices within `shape` lies within `0..a.size()`: MLX does not
/// check, and a wrong stride reads foreign memory.
#[track_caller]
pub unsafe fn as_strided(a: &Array, shape: impl Into<Shape>, strides: &[i64], offset: usize) -> Array {
    let shape = shape.into();
    super::check_shape("as_strided", &shape);
    if shape.len() != strides.len() {
        refuse("as_strided", format!("{} strides for shape {:?}", strides.len(), &shape[..]));
    }
    // SAFETY: valid handles; pointers and lengths of live slices; positions are in range by contract
    ffi::op("as_strided", &[a], |res, s| unsafe {
        sys::mlx_as_strided(res, a.raw, shape.as_ptr(), shape.len(), strides.as_ptr(), strides.len(), offset, s)
    })
}

impl Array {
    /// Diagonal `offset` of the planes of two axes: see [`diagonal`].
    #[track_caller]
    #[must_use]
    pub fn diagonal(&self, offset: i32, axis1: i32, axis2: i32) -> Array {
        diagonal(self, offset, axis1, axis2)
    }
    /// A vector as a matrix, or the diagonal of a matrix: see [`diag`].
    #[track_caller]
    #[must_use]
    pub fn diag(&self, k: i32) -> Array {
        diag(self, k)
    }
}
