//! Functions without parameters that layers share.

use crate::error::refuse;
use crate::{Array, ffi, random};
use mlx_sys as sys;

/// Zeroes elements with probability `p` and scales the others by 1 / (1 - p).
#[track_caller]
pub(crate) fn dropout(x: &Array, p: f32) -> Array {
    if p == 0.0 {
        return x.clone();
    }
    if !(0.0..1.0).contains(&p) {
        refuse("dropout", format!("the probability {p} is not in [0, 1)"));
    }
    let keep = 1.0 - p;
    bernoulli(keep, x.shape()) * x * (1.0 / keep)
}

/// True with probability `p`, drawn from the thread's key.
#[track_caller]
fn bernoulli(p: f32, shape: &[i32]) -> Array {
    let (p, key) = (Array::from(p), random::next_key(None));
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("random.bernoulli", &[], |res, s| unsafe {
        sys::mlx_random_bernoulli(res, p.raw, shape.as_ptr(), shape.len(), key.raw, s)
    })
}
