//! What becomes of arrays whose evaluation failed: they stay errors.
//!
//! MLX reports a failure of a CPU worker once, to whoever waits on that stream next, and takes the arrays for computed:
//! their buffers hold junk. Here the arrays that were asked for, and those in between that the caller may hold, are
//! turned into errors for good. To know the arrays in between, the graph is walked before an evaluation; this is done
//! only while an op that can fail in a worker waits to be computed.

use crate::Array;
use crate::error::{Error, Result};
use crate::ffi::{self, VectorArray};
use mlx_sys as sys;
use std::cell::RefCell;
use std::ffi::c_void;

/// Arrays remembered without keeping them alive.
struct Watch(*mut c_void);

impl Watch {
    fn new(arrays: &VectorArray, walk: bool) -> Option<Watch> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: valid handle and out-pointer
        if unsafe { sys::mlxs_pending_new(&mut raw, arrays.raw, walk) } != 0 {
            ffi::take_message();
        }
        (!raw.is_null()).then_some(Watch(raw))
    }
    fn waits(&self) -> bool {
        // SAFETY: valid until dropped
        unsafe { sys::mlxs_pending_waits(self.0) }
    }
    fn wait(&self) -> Result<()> {
        // SAFETY: valid until dropped
        ffi::check(unsafe { sys::mlxs_pending_wait(self.0) }, |message| Error::Eval { message })
    }
    fn poison(&self) {
        // SAFETY: valid until dropped
        unsafe { sys::mlxs_pending_poison(self.0) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: owned, freed once
        unsafe { sys::mlxs_pending_free(self.0) };
    }
}

thread_local! {
    /// Results of ops that can fail in a worker, not computed yet.
    static FALLIBLE: RefCell<Vec<Watch>> = const { RefCell::new(Vec::new()) };
    /// Graphs with such ops that `async_eval` has started.
    static STARTED: RefCell<Vec<Watch>> = const { RefCell::new(Vec::new()) };
}

/// Says that computing these arrays can fail in a worker: LAPACK, files, masked writes.
pub(crate) fn may_fail<'a>(arrays: impl IntoIterator<Item = &'a Array>) {
    let watch = Watch::new(&VectorArray::from_arrays(arrays), false);
    FALLIBLE.with(|f| {
        let mut f = f.borrow_mut();
        // arrays that were dropped or computed; amortised over the growth of the list
        if f.len() == f.capacity() {
            f.retain(Watch::waits);
        }
        f.extend(watch);
    });
}

/// Runs an evaluation of `arrays`; if it fails, all that it was to compute stays an error.
pub(crate) fn guarded(arrays: &VectorArray, wait: bool, run: impl FnOnce() -> std::ffi::c_int) -> Result<()> {
    let risky = FALLIBLE.with(|f| {
        let mut f = f.borrow_mut();
        f.retain(Watch::waits);
        !f.is_empty()
    });
    let watch = if risky { Watch::new(arrays, true) } else { None };
    let mut result = ffi::check(run(), |message| Error::Eval { message: explain(message) });
    if result.is_ok() && wait {
        result = finish();
    }
    if result.is_err() {
        if let Some(w) = watch.or_else(|| Watch::new(arrays, false)) {
            w.poison();
        }
        STARTED.with(|s| s.borrow_mut().drain(..).for_each(|w| w.poison()));
    } else if !wait {
        STARTED.with(|s| s.borrow_mut().extend(watch));
    }
    result
}

/// Waits for what `async_eval` started, if that can have failed.
pub(crate) fn finish() -> Result<()> {
    STARTED.with(|s| {
        let started = std::mem::take(&mut *s.borrow_mut());
        let result = started.iter().try_for_each(Watch::wait);
        if result.is_err() {
            started.iter().for_each(Watch::poison);
        }
        result
    })
}

/// MLX's words for an array that an earlier failure left without a value.
fn explain(message: String) -> String {
    if message.contains("without a primitive") {
        return "an array that is needed here was never computed: its evaluation failed earlier, or it was built inside \
                of a transform that is over"
            .into();
    }
    message
}
