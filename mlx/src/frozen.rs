//! Arrays that cross threads.

use crate::error::{Error, Result};
use crate::tree::Freeze;
use crate::{Array, ffi};
use mlx_sys as sys;

/// Evaluated arrays, waited for and cut off their graphs: `Send + Sync`. [`thaw`](Self::thaw) gives them back to a thread.
///
/// ```
/// use mlx::{Frozen, array};
/// let weights = Frozen::new((array!([1.0, 2.0]) * 2.0, array!(3)))?;
/// let sums: Vec<f32> = std::thread::scope(|s| {
///     let threads: Vec<_> = (0..2).map(|_| s.spawn(|| weights.thaw().0.sum(()).item::<f32>())).collect();
///     threads.into_iter().map(|t| t.join().expect("no panic")).collect::<mlx::Result<_>>()
/// })?;
/// assert_eq!(sums, [6.0, 6.0]);
/// # Ok::<(), mlx::Error>(())
/// ```
///
/// A lazy array inside does not compile as shared state:
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<mlx::Array>();
/// ```
pub struct Frozen<T: Freeze> {
    tree: T,
}

// SAFETY: by `Freeze` everything inside is `Send + Sync` or an array; every array was evaluated, waited for and detached,
// so that MLX never writes to its node again (reference counts are atomic, buffers are donated only by sole owners).
unsafe impl<T: Freeze> Send for Frozen<T> {}
// SAFETY: as above; `thaw` only makes new handles
unsafe impl<T: Freeze> Sync for Frozen<T> {}

impl<T: Freeze> Frozen<T> {
    /// Evaluates all arrays of `tree` and takes it over.
    ///
    /// # Errors
    /// If the evaluation fails.
    pub fn new(tree: T) -> Result<Self> {
        let leaves = tree.leaves();
        crate::eval(&leaves)?;
        for a in &leaves {
            let failed = |message| Error::Eval { message };
            // SAFETY: valid handles of evaluated arrays
            unsafe {
                ffi::check(sys::_mlx_array_wait(a.raw), failed)?;
                ffi::check(sys::mlxs_array_detach(a.raw), failed)?;
                // CUDA moves a buffer to managed memory at the first host read, which writes to the node: do it now
                if crate::cuda_is_available() && a.size() > 0 {
                    sys::mlx_array_data_uint8(a.raw);
                }
            }
        }
        Ok(Frozen { tree })
    }

    /// The tree with arrays for the calling thread; nothing is copied.
    pub fn thaw(&self) -> T {
        self.tree.map(|_, a: &Array| a.clone())
    }
}

impl<T: Freeze> Clone for Frozen<T> {
    fn clone(&self) -> Self {
        Frozen { tree: self.thaw() }
    }
}

/// Evaluates a tree of arrays and makes it able to cross threads.
pub fn freeze<T: Freeze>(tree: T) -> Result<Frozen<T>> {
    Frozen::new(tree)
}
