//! Random numbers (`mlx.core.random`): counter-based, the same key gives the same numbers on every backend.
//!
//! Without a key, draws use the calling thread's global key, which [`seed`] sets.

use crate::dtype::Dtype;
use crate::scalar::{Arg, Operand, Scalar, single};
use crate::shape::Shape;
use crate::{Array, ffi};
use mlx_sys as sys;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! { static KEY: RefCell<Option<Array>> = const { RefCell::new(None) }; }
static THREADS: AtomicU64 = AtomicU64::new(0);

/// A key from a seed.
pub fn key(seed: u64) -> Array {
    Array::from_slice(&[(seed >> 32) as u32, seed as u32], 2)
}

/// Sets the calling thread's global key.
pub fn seed(seed: u64) {
    KEY.with(|k| *k.borrow_mut() = Some(key(seed)));
}

/// The calling thread's global key (`mx.random.state[0]`).
///
/// The first thread to ask starts from the clock, others from keys derived from it by their number: no two threads
/// draw the same stream.
pub fn state() -> Array {
    KEY.with(|k| {
        k.borrow_mut()
            .get_or_insert_with(|| {
                static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
                let start = *START.get_or_init(|| {
                    std::time::SystemTime::now()
                        .duration_since(std::time::UNIX_EPOCH)
                        .map_or(0, |d| d.as_nanos() as u64)
                });
                let n = THREADS.fetch_add(1, Ordering::Relaxed);
                key(start.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
            })
            .clone()
    })
}

/// Replaces the calling thread's global key, for example by one that [`state`] gave.
pub fn set_state(key: Array) {
    KEY.with(|k| *k.borrow_mut() = Some(key));
}

/// The given key, or the next one split off the thread's global key.
#[track_caller]
pub(crate) fn next_key(key: Option<&Array>) -> Array {
    if let Some(k) = key {
        return k.clone();
    }
    let (a, b) = split(&state());
    set_state(a);
    b
}

/// Two independent keys from one.
#[track_caller]
pub fn split(key: &Array) -> (Array, Array) {
    // SAFETY: valid handles
    ffi::op_pair("random.split", &[key], |a, b, s| unsafe { sys::mlx_random_split(a, b, key.raw, s) })
}

/// `num` independent keys from one, as rows.
#[track_caller]
pub fn split_num(key: &Array, num: i32) -> Array {
    // SAFETY: valid handles
    ffi::op("random.split", &[key], |res, s| unsafe { sys::mlx_random_split_num(res, key.raw, num, s) })
}

/// Random bits as unsigned integers of `width` bytes (1, 2 or 4).
#[track_caller]
pub fn bits(shape: impl Into<Shape>, width: i32, key: Option<&Array>) -> Array {
    let (shape, k) = (checked("random.bits", shape), next_key(key));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.bits", &[], |res, s| unsafe {
        sys::mlx_random_bits(res, shape.as_ptr(), shape.len(), width, k.raw, s)
    })
}

#[track_caller]
fn checked(op: &str, shape: impl Into<Shape>) -> Shape {
    let shape = shape.into();
    crate::ops::check_shape(op, &shape);
    shape
}

/// Uniform numbers in [low, high).
#[track_caller]
pub fn uniform(
    low: impl Operand,
    high: impl Operand,
    shape: impl Into<Shape>,
    dtype: Dtype,
    key: Option<&Array>,
) -> Array {
    let (shape, k) = (checked("random.uniform", shape), next_key(key));
    let (low, high) = (single("random.uniform", &low), single("random.uniform", &high));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.uniform", &[&low, &high], |res, s| unsafe {
        sys::mlx_random_uniform(res, low.raw, high.raw, shape.as_ptr(), shape.len(), dtype.raw(), k.raw, s)
    })
}

/// Normal numbers with mean `loc` and standard deviation `scale` (Python's default: 0 and 1), which are broadcast.
#[track_caller]
pub fn normal(
    shape: impl Into<Shape>,
    dtype: Dtype,
    loc: impl Operand,
    scale: impl Operand,
    key: Option<&Array>,
) -> Array {
    let (shape, k) = (checked("random.normal", shape), next_key(key));
    // 0 and 1 change nothing and cost nothing
    let parameter = |arg: Arg<'_>, neutral: f64| match arg {
        Arg::Array(a) => Some(a.clone()),
        Arg::Scalar(Scalar::Float(v)) if v == neutral => None,
        Arg::Scalar(Scalar::Int(v)) if v as f64 == neutral => None,
        Arg::Scalar(s) => Some(crate::scalar::weak("random.normal", s, dtype)),
    };
    let (loc, scale) = (parameter(loc.arg(), 0.0), parameter(scale.arg(), 1.0));
    let (l, c) = (ffi::nullable(loc.as_ref()), ffi::nullable(scale.as_ref()));
    // SAFETY: valid handles, or null where it is allowed; pointer and length of a live slice
    ffi::op("random.normal", &[], |res, s| unsafe {
        sys::mlx_random_normal_broadcast(res, shape.as_ptr(), shape.len(), dtype.raw(), l, c, k.raw, s)
    })
}

/// Normal numbers between `lower` and `upper`; `None` takes the shape of the bounds.
#[track_caller]
pub fn truncated_normal(
    lower: impl Operand,
    upper: impl Operand,
    shape: Option<Shape>,
    dtype: Dtype,
    key: Option<&Array>,
) -> Array {
    let (lower, upper) = (single("random.truncated_normal", &lower), single("random.truncated_normal", &upper));
    let shape = shape.unwrap_or_else(|| crate::broadcast_shapes(&[lower.shape(), upper.shape()]).into());
    let (shape, k) = (checked("random.truncated_normal", shape), next_key(key));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.truncated_normal", &[&lower, &upper], |res, s| unsafe {
        sys::mlx_random_truncated_normal(res, lower.raw, upper.raw, shape.as_ptr(), shape.len(), dtype.raw(), k.raw, s)
    })
}

/// Vectors with mean `mean` [..., n] and covariance `cov` [..., n, n]: [shape..., n], float32.
#[track_caller]
pub fn multivariate_normal(mean: &Array, cov: &Array, shape: impl Into<Shape>, key: Option<&Array>) -> Array {
    let (shape, k) = (checked("random.multivariate_normal", shape), next_key(key));
    if cov.size() == 0 || mean.size() == 0 {
        crate::error::refuse("random.multivariate_normal", "mean and covariance must not be empty");
    }
    let on_cpu = |f: &dyn Fn() -> Array| match crate::default_device() {
        crate::Device::Cpu => f(),
        // the factorisation of the covariance has no GPU kernel
        _ => crate::with_device(crate::Device::Cpu, f),
    };
    // SAFETY: valid handles; pointer and length of a live slice
    on_cpu(&|| {
        ffi::op("random.multivariate_normal", &[mean, cov], |res, s| unsafe {
            sys::mlx_random_multivariate_normal(
                res,
                mean.raw,
                cov.raw,
                shape.as_ptr(),
                shape.len(),
                Dtype::Float32.raw(),
                k.raw,
                s,
            )
        })
    })
}

/// Laplace numbers with mean `loc` and width `scale`.
#[track_caller]
pub fn laplace(shape: impl Into<Shape>, dtype: Dtype, loc: f32, scale: f32, key: Option<&Array>) -> Array {
    let (shape, k) = (checked("random.laplace", shape), next_key(key));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.laplace", &[], |res, s| unsafe {
        sys::mlx_random_laplace(res, shape.as_ptr(), shape.len(), dtype.raw(), loc, scale, k.raw, s)
    })
}

/// Standard Gumbel numbers.
#[track_caller]
pub fn gumbel(shape: impl Into<Shape>, dtype: Dtype, key: Option<&Array>) -> Array {
    let (shape, k) = (checked("random.gumbel", shape), next_key(key));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.gumbel", &[], |res, s| unsafe {
        sys::mlx_random_gumbel(res, shape.as_ptr(), shape.len(), dtype.raw(), k.raw, s)
    })
}

/// Bools that are true with probability `p`; `None` takes the shape of `p`.
#[track_caller]
pub fn bernoulli(p: impl Operand, shape: Option<Shape>, key: Option<&Array>) -> Array {
    let p = single("random.bernoulli", &p);
    let shape = shape.unwrap_or_else(|| p.shape().into());
    let (shape, k) = (checked("random.bernoulli", shape), next_key(key));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.bernoulli", &[&p], |res, s| unsafe {
        sys::mlx_random_bernoulli(res, p.raw, shape.as_ptr(), shape.len(), k.raw, s)
    })
}

/// Whole numbers in [low, high).
#[track_caller]
pub fn randint(
    low: impl Operand,
    high: impl Operand,
    shape: impl Into<Shape>,
    dtype: Dtype,
    key: Option<&Array>,
) -> Array {
    let (shape, k) = (checked("random.randint", shape), next_key(key));
    let (low, high) = (single("random.randint", &low), single("random.randint", &high));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.randint", &[&low, &high], |res, s| unsafe {
        sys::mlx_random_randint(res, low.raw, high.raw, shape.as_ptr(), shape.len(), dtype.raw(), k.raw, s)
    })
}

/// Indices drawn with probability softmax(logits) along `axis`; one draw for each of the other positions.
#[track_caller]
pub fn categorical(logits: &Array, axis: i32, key: Option<&Array>) -> Array {
    let k = next_key(key);
    // SAFETY: valid handles
    ffi::op("random.categorical", &[logits], |res, s| unsafe {
        sys::mlx_random_categorical(res, logits.raw, axis, k.raw, s)
    })
}

/// `num` draws of [`categorical`] for each of the other positions, as a new last axis (`num_samples=num`).
#[track_caller]
pub fn categorical_num(logits: &Array, axis: i32, num: i32, key: Option<&Array>) -> Array {
    let k = next_key(key);
    // SAFETY: valid handles
    ffi::op("random.categorical", &[logits], |res, s| unsafe {
        sys::mlx_random_categorical_num_samples(res, logits.raw, axis, num, k.raw, s)
    })
}

/// Draws of [`categorical`] in `shape`, with which the other positions are broadcast (`shape=shape`).
#[track_caller]
pub fn categorical_shape(logits: &Array, axis: i32, shape: impl Into<Shape>, key: Option<&Array>) -> Array {
    let (shape, k) = (checked("random.categorical", shape), next_key(key));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.categorical", &[logits], |res, s| unsafe {
        sys::mlx_random_categorical_shape(res, logits.raw, axis, shape.as_ptr(), shape.len(), k.raw, s)
    })
}

/// The slices of `x` along `axis` in random order.
#[track_caller]
pub fn permutation(x: &Array, axis: i32, key: Option<&Array>) -> Array {
    let k = next_key(key);
    // SAFETY: valid handles
    ffi::op("random.permutation", &[x], |res, s| unsafe { sys::mlx_random_permutation(res, x.raw, axis, k.raw, s) })
}

/// The numbers 0..n (uint32) in random order (`permutation(n)` in Python).
#[track_caller]
pub fn permutation_of(n: i32, key: Option<&Array>) -> Array {
    crate::ops::check_shape("random.permutation", &[n]);
    let k = next_key(key);
    // SAFETY: valid handles
    ffi::op("random.permutation", &[], |res, s| unsafe { sys::mlx_random_permutation_arange(res, n, k.raw, s) })
}
