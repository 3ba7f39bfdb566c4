//! Making lazy arrays real.

use crate::Array;
use crate::error::{Error, Result};
use crate::ffi::{self, VectorArray};
use mlx_sys as sys;
use std::borrow::Borrow;

/// Computes the arrays and waits for them (`mx.eval`).
///
/// # Errors
/// If any op fails while it runs. Then nothing that was pending on the same stream can be used.
pub fn eval<A: Borrow<Array>>(arrays: impl IntoIterator<Item = A>) -> Result<()> {
    run(arrays, sys::mlx_eval)
}

/// Starts computing the arrays and returns (`mx.async_eval`); failures are reported by the next wait on the stream.
pub fn async_eval<A: Borrow<Array>>(arrays: impl IntoIterator<Item = A>) -> Result<()> {
    run(arrays, sys::mlx_async_eval)
}

fn run<A: Borrow<Array>>(
    arrays: impl IntoIterator<Item = A>,
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
    ffi::check(unsafe { f(v.raw) }, |message| Error::Eval { message })
}
