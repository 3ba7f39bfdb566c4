//! Compiled functions: traced once per set of shapes, then replayed.

use super::closure::{Closure, deep, finish};
use crate::ffi::{self, VectorArray};
use crate::{Array, stream};
use mlx_sys as sys;
use std::marker::PhantomData;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A function whose graph MLX keeps: the first call with new shapes and dtypes runs the closure, later ones replay.
///
/// Bound to its thread, where MLX keeps the trace; dropping it frees the trace.
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<mlx::Compiled>();
/// ```
pub struct Compiled {
    inner: sys::mlx_closure,
    id: usize,
    cache: sys::mlx_compile_cache,
    _thread_bound: PhantomData<*const ()>,
}

/// Compiles `f` (`mx.compile`). Arrays that it captures are constants of the trace.
///
/// With `shapeless` other shapes do not trace again; the function must not depend on them.
#[track_caller]
pub fn compile_fn(f: impl Fn(&[Array]) -> Vec<Array> + 'static, shapeless: bool) -> Compiled {
    // ids of MLX's own compiled functions are addresses: the top bit is never set in them
    static NEXT: AtomicUsize = AtomicUsize::new(1 << (usize::BITS - 1));
    default_mode();
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let body = Closure::owned(f);
    // SAFETY: valid handles; no constants
    unsafe {
        let mut compiled = Compiled {
            inner: sys::mlx_closure_new(),
            id,
            cache: sys::mlx_compile_cache_new(),
            _thread_bound: PhantomData,
        };
        finish("compile", sys::mlx_detail_compile_cache(&mut compiled.cache));
        finish("compile", sys::mlx_detail_compile(&mut compiled.inner, body.raw, id, shapeless, std::ptr::null(), 0));
        compiled
    }
}

impl Compiled {
    #[track_caller]
    pub fn call(&self, args: &[Array]) -> Vec<Array> {
        stream::current();
        let inputs = VectorArray::from_arrays(args);
        let mut res = VectorArray::new();
        // SAFETY: valid handles
        let rc = deep(|| unsafe { sys::mlx_closure_apply(&mut res.raw, self.inner, inputs.raw) });
        finish("compile", rc);
        res.to_vec()
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        // SAFETY: owned handles, freed once; the cache is the one of this thread
        unsafe {
            if sys::mlx_detail_compile_erase(self.cache, self.id) != 0 {
                ffi::take_message();
            }
            sys::mlx_compile_cache_free(self.cache);
            sys::mlx_closure_free(self.inner);
        }
    }
}

/// What [`compile_fn`] makes of a trace (`MLX_DISABLE_COMPILE`, `mx.disable_compile`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompileMode {
    /// Calls run the function.
    Disabled,
    /// Replays the trace as it is.
    NoSimplify,
    /// Joins equal subgraphs.
    NoFuse,
    /// Also fuses element-wise chains into kernels.
    Enabled,
}

/// Sets what compiled functions do from now on, in the whole process.
///
/// Fusion for the CPU runs the system's C++ compiler on files with predictable names in the temporary folder, which
/// other users of the machine can replace. A build for the CPU therefore starts in `NoFuse`; other backends in `Enabled`.
pub fn set_compile_mode(mode: CompileMode) {
    default_mode();
    apply(mode);
}

fn apply(mode: CompileMode) {
    let raw = match mode {
        CompileMode::Disabled => sys::MLX_COMPILE_MODE_DISABLED,
        CompileMode::NoSimplify => sys::MLX_COMPILE_MODE_NO_SIMPLIFY,
        CompileMode::NoFuse => sys::MLX_COMPILE_MODE_NO_FUSE,
        CompileMode::Enabled => sys::MLX_COMPILE_MODE_ENABLED,
    };
    // SAFETY: a plain number of the enum
    if unsafe { sys::mlx_set_compile_mode(raw) } != 0 {
        ffi::take_message();
    }
}

fn default_mode() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        ffi::init();
        if sys::BUILD.backend == "cpu"
            && !crate::cuda_is_available()
            && std::env::var_os("MLX_DISABLE_COMPILE").is_none()
        {
            apply(CompileMode::NoFuse);
        }
    });
}
