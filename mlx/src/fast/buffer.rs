//! The arrays of one weight in one buffer.

use super::cuda;
use crate::{Array, Dtype, Result, catch, concatenate, eval};

/// The same values, one array behind the other in one buffer, evaluated: a kernel of [`linear`](super::linear) on CUDA is
/// then handed one array in place of a packed weight, its scales and its offsets, which saves the host most of a
/// launch's cost. `None` where this brings nothing: without such kernels, for sizes that are not multiples of 16 bytes,
/// and beyond 2 GiB.
///
/// # Errors
/// The arrays cannot be evaluated.
pub fn share_buffer(arrays: &[&Array]) -> Result<Option<Vec<Array>>> {
    let total: usize = arrays.iter().map(|a| a.nbytes()).sum();
    if cuda::current_gpu().is_none() || arrays.iter().any(|a| a.nbytes() % 16 != 0) || i32::try_from(total).is_err() {
        return Ok(None);
    }
    let views = catch(|| {
        let bytes: Vec<Array> = arrays.iter().map(|a| a.reshape(-1).view(Dtype::Uint8)).collect();
        let all = concatenate(&bytes, 0);
        let mut at = 0;
        let view = |a: &&Array| {
            let from = at;
            at += a.nbytes() as i32;
            all.slice_axis(0, from..at).view(a.dtype()).reshape(a.shape())
        };
        arrays.iter().map(view).collect::<Vec<_>>()
    })?;
    eval(&views)?;
    Ok(Some(views))
}
