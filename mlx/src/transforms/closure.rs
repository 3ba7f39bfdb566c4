//! Rust closures as MLX closures: panics are carried around C, captures are freed exactly once.

use crate::Array;
use crate::error::{Error, raise};
use crate::ffi::{self, VectorArray, borrow_vector};
use mlx_sys as sys;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What a transform calls: arrays in, arrays out.
pub(crate) type Body<'a> = dyn Fn(&[Array]) -> Vec<Array> + 'a;

thread_local! {
    /// The panic of a closure on its way around the C frames between it and the transform's caller.
    static PANIC: RefCell<Option<Box<dyn Any + Send>>> = const { RefCell::new(None) };
}

/// Runs `f` inside a C callback; a panic is kept for [`finish`] and reported to C as a failure.
pub(crate) fn shield(f: impl FnOnce() -> c_int) -> c_int {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(rc) => rc,
        Err(payload) => {
            PANIC.with(|p| *p.borrow_mut() = Some(payload));
            1
        }
    }
}

/// After a C call that may have run closures: goes on with a closure's panic, or raises MLX's own message.
#[track_caller]
pub(crate) fn finish(op: &str, rc: c_int) {
    if let Err(e) = outcome(op, rc) {
        raise(e);
    }
}

/// As [`finish`], with MLX's own failure as an error.
pub(crate) fn outcome(op: &str, rc: c_int) -> Result<(), Error> {
    let panic = PANIC.with(|p| p.borrow_mut().take());
    if rc == 0 {
        return Ok(());
    }
    let message = ffi::take_message();
    match panic {
        Some(payload) => resume_unwind(payload),
        None => Err(Error::op(op, message)),
    }
}

/// Runs a C call that walks graphs recursively (about 150 bytes of stack a node): on a stack that holds a million nodes.
pub(crate) fn deep<R>(f: impl FnOnce() -> R) -> R {
    const ENOUGH: usize = 64 << 20;
    const GROWN: usize = 256 << 20;
    stacker::maybe_grow(ENOUGH, GROWN, f)
}

/// An owned `mlx_closure` over a Rust closure that lives as long as `'a`.
pub(crate) struct Closure<'a> {
    pub raw: sys::mlx_closure,
    _body: PhantomData<&'a ()>,
}

struct Payload<'a>(Box<Body<'a>>);

impl<'a> Closure<'a> {
    /// # Safety
    /// C may keep what `'a` borrows as long as a copy of the closure lives: with anything shorter than `'static` the
    /// caller makes sure that C drops all copies before `'a` ends.
    pub unsafe fn scoped(f: Box<Body<'a>>) -> Closure<'a> {
        ffi::init();
        let payload = Box::into_raw(Box::new(Payload(f)));
        // SAFETY: the payload matches the two callbacks; C calls `free` once
        let raw = unsafe { sys::mlx_closure_new_func_payload(Some(call), payload.cast(), Some(free)) };
        Closure { raw, _body: PhantomData }
    }

    pub fn owned(f: impl Fn(&[Array]) -> Vec<Array> + 'static) -> Closure<'static> {
        // SAFETY: nothing is borrowed
        unsafe { Closure::scoped(Box::new(f)) }
    }
}

impl Drop for Closure<'_> {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once
        unsafe { sys::mlx_closure_free(self.raw) };
    }
}

unsafe extern "C" fn call(
    res: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    shield(|| {
        // SAFETY: `payload` is what `scoped` gave and lives until `free`; `input` is valid for the call
        let (f, args) = unsafe { (&*payload.cast::<Payload<'static>>(), borrow_vector(input)) };
        // SAFETY: C takes over the vector
        unsafe { give(res, &(f.0)(&args)) };
        0
    })
}

unsafe extern "C" fn free(payload: *mut c_void) {
    let dropped = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: made by `Box::into_raw` in `scoped`, freed once
        drop(unsafe { Box::from_raw(payload.cast::<Payload<'static>>()) });
    }));
    // a capture that panics while it is dropped has nobody to tell
    if let Err(payload) = dropped {
        std::mem::forget(payload);
    }
}

/// Writes `arrays` into a result vector that C takes over.
///
/// # Safety
/// `res` is a valid place for a vector handle.
pub(crate) unsafe fn give(res: *mut sys::mlx_vector_array, arrays: &[Array]) {
    let v = VectorArray::from_arrays(arrays);
    // SAFETY: valid place by contract; C copies the handles
    unsafe { sys::mlx_vector_array_set(res, v.raw) };
}
