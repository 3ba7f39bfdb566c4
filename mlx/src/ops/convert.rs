//! Conversions of dtype and layout.

use crate::dtype::Dtype;
use crate::scalar::{Operand, single};
use crate::{Array, ffi};
use mlx_sys as sys;

impl Array {
    /// Converts the elements to `dtype`; the same array if it has it already.
    #[track_caller]
    #[must_use]
    pub fn astype(&self, dtype: Dtype) -> Array {
        if self.dtype() == dtype {
            return self.clone();
        }
        // SAFETY: valid handles
        ffi::op("astype", &[self], |res, s| unsafe { sys::mlx_astype(res, self.raw, dtype.raw(), s) })
    }

    /// Reads the same bytes as another dtype; the last axis grows or shrinks.
    #[track_caller]
    #[must_use]
    pub fn view(&self, dtype: Dtype) -> Array {
        let viewed = |a: &Array, d: Dtype| {
            // SAFETY: valid handles
            ffi::op("view", &[a], |res, s| unsafe { sys::mlx_view(res, a.raw, d.raw(), s) })
        };
        // bytes other than 0 and 1 must not become bools
        if dtype == Dtype::Bool && self.dtype() != Dtype::Bool {
            return viewed(self, Dtype::Uint8).ne(0);
        }
        viewed(self, dtype)
    }
}

/// A row-major copy if the array is not laid out so already; releases a larger buffer that a slice keeps alive.
#[track_caller]
pub fn contiguous(a: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("contiguous", &[a], |res, s| unsafe { sys::mlx_contiguous(res, a.raw, false, s) })
}

/// As [`contiguous`], but a column-major array stays as it is (`allow_col_major=True`).
#[track_caller]
pub fn contiguous_either(a: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("contiguous", &[a], |res, s| unsafe { sys::mlx_contiguous(res, a.raw, true, s) })
}

/// A copy in a buffer of its own.
#[track_caller]
pub fn copy(a: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("copy", &[a], |res, s| unsafe { sys::mlx_copy(res, a.raw, s) })
}

/// To 8-bit floats (e4m3), as uint8.
#[track_caller]
pub fn to_fp8(a: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("to_fp8", &[a], |res, s| unsafe { sys::mlx_to_fp8(res, a.raw, s) })
}

/// From 8-bit floats (e4m3, stored as uint8) to `dtype`.
#[track_caller]
pub fn from_fp8(a: &Array, dtype: Dtype) -> Array {
    // SAFETY: valid handles
    ffi::op("from_fp8", &[a], |res, s| unsafe { sys::mlx_from_fp8(res, a.raw, dtype.raw(), s) })
}

/// `mx.array(x)`: an operand as an array, numbers with Python's default dtype.
#[track_caller]
pub fn asarray(a: impl Operand) -> Array {
    single("array", &a).clone()
}
