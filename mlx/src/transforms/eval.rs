//! Making lazy arrays real.

use crate::Array;
use crate::error::Result;
use crate::ffi::VectorArray;
use crate::pending;
use mlx_sys as sys;
use std::borrow::Borrow;

/// Computes the arrays and waits for them (`mx.eval`).
///
/// # Errors
/// If any op fails while it runs, also one that [`async_eval`] started on the same stream. The arrays that were to be
/// computed, and all that depends on them, stay errors.
pub fn eval<A: Borrow<Array>>(arrays: impl IntoIterator<Item = A>) -> Result<()> {
    run(arrays, true, sys::mlx_eval)
}

/// Starts computing the arrays and returns (`mx.async_eval`); failures are reported by the next wait on the stream.
pub fn async_eval<A: Borrow<Array>>(arrays: impl IntoIterator<Item = A>) -> Result<()> {
    run(arrays, false, sys::mlx_async_eval)
}

fn run<A: Borrow<Array>>(
    arrays: impl IntoIterator<Item = A>,
    wait: bool,
    f: unsafe extern "C" fn(sys::mlx_vector_array) -> std::ffi::c_int,
) -> Result<()> {
    // the thread's streams must exist before MLX asks for its default
    crate::stream::current();
    let list: smallvec::SmallVec<[A; 8]> = arrays.into_iter().collect();
    let v = VectorArray::from_arrays(list.iter().map(Borrow::borrow));
    if v.len() == 0 {
        return Ok(());
    }
    // SAFETY: valid handle
    pending::guarded(&v, wait, || unsafe { f(v.raw) })
}
