//! New arrays.

use crate::dtype::Dtype;
use crate::error::refuse;
use crate::scalar::{Arg, Operand, Scalar, single};
use crate::shape::Shape;
use crate::{Array, ffi};
use mlx_sys as sys;

#[track_caller]
pub(crate) fn check_shape(op: &str, shape: &[i32]) {
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
    // MLX computes sizes without overflow checks, and an allocation that fails ends the process
    if elements.is_none_or(|n| n > 1 << 40) {
        refuse(op, format!("shape {shape:?} has a negative dimension or too many elements"));
    }
}

/// Zeros of `shape`.
#[track_caller]
pub fn zeros(shape: impl Into<Shape>, dtype: Dtype) -> Array {
    let shape = shape.into();
    check_shape("zeros", &shape);
    // SAFETY: pointer and length of a live slice
    ffi::op("zeros", &[], |res, s| unsafe { sys::mlx_zeros(res, shape.as_ptr(), shape.len(), dtype.raw(), s) })
}

/// Ones of `shape`.
#[track_caller]
pub fn ones(shape: impl Into<Shape>, dtype: Dtype) -> Array {
    let shape = shape.into();
    check_shape("ones", &shape);
    // SAFETY: pointer and length of a live slice
    ffi::op("ones", &[], |res, s| unsafe { sys::mlx_ones(res, shape.as_ptr(), shape.len(), dtype.raw(), s) })
}

/// `value` broadcast to `shape`. As in Python, `dtype` types a number weakly (1.5 stays float32 next to an integer
/// dtype) and says nothing about an array.
#[track_caller]
pub fn full(shape: impl Into<Shape>, value: impl Operand, dtype: Option<Dtype>) -> Array {
    let shape = shape.into();
    check_shape("full", &shape);
    let value = filling("full", &value, dtype);
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("full", &[&value], |res, s| unsafe {
        sys::mlx_full(res, shape.as_ptr(), shape.len(), value.raw, value.dtype().raw(), s)
    })
}

#[track_caller]
fn filling(op: &str, value: &impl Operand, dtype: Option<Dtype>) -> Array {
    match (value.arg(), dtype) {
        // Python types a float by the dtype only if that is a real floating one
        (Arg::Scalar(s @ Scalar::Float(_)), Some(Dtype::Complex64)) => crate::scalar::weak(op, s, Dtype::Float32),
        (Arg::Scalar(s), Some(d)) => crate::scalar::weak(op, s, d),
        _ => single(op, value).clone(),
    }
}

/// `value` in the shape of `a`; `None` takes the dtype of `a`.
#[track_caller]
pub fn full_like(a: &Array, value: impl Operand, dtype: Option<Dtype>) -> Array {
    let dtype = dtype.unwrap_or(a.dtype());
    let value = filling("full_like", &value, Some(dtype));
    // SAFETY: valid handles
    ffi::op("full_like", &[a, &value], |res, s| unsafe { sys::mlx_full_like(res, a.raw, value.raw, dtype.raw(), s) })
}

/// Zeros with shape and dtype of `a`.
#[track_caller]
pub fn zeros_like(a: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("zeros_like", &[a], |res, s| unsafe { sys::mlx_zeros_like(res, a.raw, s) })
}

/// Ones with shape and dtype of `a`.
#[track_caller]
pub fn ones_like(a: &Array) -> Array {
    // SAFETY: valid handles
    ffi::op("ones_like", &[a], |res, s| unsafe { sys::mlx_ones_like(res, a.raw, s) })
}

/// Numbers from `start` up to, not including, `stop`; `None` gives int32 for whole arguments of integer type, else float32.
#[track_caller]
pub fn arange(
    start: impl Into<Scalar>,
    stop: impl Into<Scalar>,
    step: impl Into<Scalar>,
    dtype: Option<Dtype>,
) -> Array {
    let args = [start.into(), stop.into(), step.into()];
    let dtype = dtype.unwrap_or_else(|| crate::result_type(&args.map(Scalar::default_dtype)));
    let [start, stop, step] = args.map(|a| match a {
        Scalar::Bool(v) => v as u8 as f64,
        Scalar::Int(v) => v as f64,
        Scalar::Float(v) => v,
        Scalar::Complex(v) => v.re as f64,
    });
    // SAFETY: plain numbers
    ffi::op("arange", &[], |res, s| unsafe { sys::mlx_arange(res, start, stop, step, dtype.raw(), s) })
}

/// `num` numbers from `start` towards `stop`, which is not among them (`endpoint=False`).
#[track_caller]
pub fn linspace_open(start: f64, stop: f64, num: i32, dtype: Dtype) -> Array {
    check_shape("linspace", &[num]);
    // SAFETY: plain numbers
    ffi::op("linspace", &[], |res, s| unsafe {
        sys::mlx_linspace_endpoint(res, start, stop, num, false, dtype.raw(), s)
    })
}

/// `num` numbers from `start` to `stop`, both included.
#[track_caller]
pub fn linspace(start: f64, stop: f64, num: i32, dtype: Dtype) -> Array {
    check_shape("linspace", &[num]);
    // SAFETY: plain numbers
    ffi::op("linspace", &[], |res, s| unsafe { sys::mlx_linspace(res, start, stop, num, dtype.raw(), s) })
}

/// Ones on diagonal `k` of an `n` x `m` matrix.
#[track_caller]
pub fn eye(n: i32, m: Option<i32>, k: i32, dtype: Dtype) -> Array {
    let m = m.unwrap_or(n);
    check_shape("eye", &[n, m]);
    // SAFETY: plain numbers
    ffi::op("eye", &[], |res, s| unsafe { sys::mlx_eye(res, n, m, k, dtype.raw(), s) })
}

/// The `n` x `n` identity matrix.
#[track_caller]
pub fn identity(n: i32, dtype: Dtype) -> Array {
    check_shape("identity", &[n, n]);
    // SAFETY: plain numbers
    ffi::op("identity", &[], |res, s| unsafe { sys::mlx_identity(res, n, dtype.raw(), s) })
}

/// Ones at and below diagonal `k` of an `n` x `m` matrix.
#[track_caller]
pub fn tri(n: i32, m: Option<i32>, k: i32, dtype: Dtype) -> Array {
    let m = m.unwrap_or(n);
    check_shape("tri", &[n, m]);
    // SAFETY: plain numbers
    ffi::op("tri", &[], |res, s| unsafe { sys::mlx_tri(res, n, m, k, dtype.raw(), s) })
}

/// `a` with zeros above diagonal `k`.
#[track_caller]
pub fn tril(a: &Array, k: i32) -> Array {
    // SAFETY: valid handles
    ffi::op("tril", &[a], |res, s| unsafe { sys::mlx_tril(res, a.raw, k, s) })
}

/// `a` with zeros below diagonal `k`.
#[track_caller]
pub fn triu(a: &Array, k: i32) -> Array {
    // SAFETY: valid handles
    ffi::op("triu", &[a], |res, s| unsafe { sys::mlx_triu(res, a.raw, k, s) })
}
