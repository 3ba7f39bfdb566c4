//! Random numbers (`mlx.core.random`): counter-based, the same key gives the same numbers on every backend.
//!
//! Without a key, draws use the calling thread's global key, which [`seed`] sets.

use crate::dtype::Dtype;
use crate::scalar::{Operand, single};
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

/// Uniform numbers in [low, high).
#[track_caller]
pub fn uniform(
    low: impl Operand,
    high: impl Operand,
    shape: impl Into<Shape>,
    dtype: Dtype,
    key: Option<&Array>,
) -> Array {
    let (shape, k) = (shape.into(), next_key(key));
    crate::ops::check_shape("random.uniform", &shape);
    let (low, high) = (single("random.uniform", &low).astype(dtype), single("random.uniform", &high).astype(dtype));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.uniform", &[&low, &high], |res, s| unsafe {
        sys::mlx_random_uniform(res, low.raw, high.raw, shape.as_ptr(), shape.len(), dtype.raw(), k.raw, s)
    })
}

/// Normal numbers with mean `loc` and standard deviation `scale`.
#[track_caller]
pub fn normal(shape: impl Into<Shape>, dtype: Dtype, loc: f32, scale: f32, key: Option<&Array>) -> Array {
    let (shape, k) = (shape.into(), next_key(key));
    crate::ops::check_shape("random.normal", &shape);
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.normal", &[], |res, s| unsafe {
        sys::mlx_random_normal(res, shape.as_ptr(), shape.len(), dtype.raw(), loc, scale, k.raw, s)
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
    let (shape, k) = (shape.into(), next_key(key));
    crate::ops::check_shape("random.randint", &shape);
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
