//! Rust closures as MLX closures: panics are carried around C, captures are freed exactly once.

use super::stack::deep;
use crate::Array;
use crate::error::{Error, raise};
use crate::ffi::{self, VectorArray, borrow_vector};
use mlx_sys as sys;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

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
    drop_orphans();
    if rc == 0 {
        return Ok(());
    }
    let message = ffi::take_message();
    match panic {
        Some(payload) => resume_unwind(payload),
        None => Err(Error::op(op, message)),
    }
}

/// An owned `mlx_closure` over a Rust closure that lives as long as `'a`.
pub(crate) struct Closure<'a> {
    pub raw: sys::mlx_closure,
    _body: PhantomData<&'a ()>,
}

struct Payload<'a>(Box<Body<'a>>);

/// Things of one thread that were let go on another one: MLX's workers may hold the last reference to a closure whose
/// captures (`Rc`, arrays) must be dropped at home.
#[derive(Default)]
struct Orphans(Mutex<Vec<*mut dyn Any>>);
// SAFETY: the pointers are only dereferenced on the thread that they belong to
unsafe impl Send for Orphans {}
// SAFETY: as above
unsafe impl Sync for Orphans {}

thread_local! { static HOME: Arc<Orphans> = Arc::new(Orphans::default()); }

/// A value that closures of C own: dropped on the thread that made it, whoever lets it go.
pub(crate) struct Owned<T: 'static> {
    value: *mut T,
    home: Arc<Orphans>,
}

impl<T: 'static> Owned<T> {
    /// The pointer for C's payload; [`free_owned`] takes it back.
    pub fn into_payload(value: T) -> *mut c_void {
        drop_orphans();
        let value = Box::into_raw(Box::new(value));
        Box::into_raw(Box::new(Owned { value, home: HOME.with(Arc::clone) })).cast()
    }

    /// # Safety
    /// `payload` came from `into_payload` of this type and was not freed.
    pub unsafe fn get<'p>(payload: *mut c_void) -> &'p T {
        // SAFETY: by contract
        unsafe { &*(*payload.cast::<Owned<T>>()).value }
    }
}

/// The destructor that goes with [`Owned::into_payload`].
pub(crate) unsafe extern "C" fn free_owned<T: 'static>(payload: *mut c_void) {
    // SAFETY: made by `into_payload`, freed once
    let owned = unsafe { Box::from_raw(payload.cast::<Owned<T>>()) };
    let at_home = HOME.try_with(|home| Arc::ptr_eq(home, &owned.home)).unwrap_or(false);
    if at_home {
        // SAFETY: made by `Box::into_raw`, freed once, on its own thread
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(owned.value) })));
        // a capture that panics while it is dropped has nobody to tell
        dropped.unwrap_or_else(std::mem::forget);
    } else {
        owned.home.0.lock().unwrap_or_else(|e| e.into_inner()).push(owned.value);
    }
}

/// Drops what other threads have let go of this thread's captures.
fn drop_orphans() {
    let orphans = HOME.try_with(|home| std::mem::take(&mut *home.0.lock().unwrap_or_else(|e| e.into_inner())));
    for value in orphans.unwrap_or_default() {
        // SAFETY: made by `Box::into_raw` on this thread, listed once
        drop(unsafe { Box::from_raw(value) });
    }
}

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

    /// A closure that C may keep.
    pub fn owned(f: impl Fn(&[Array]) -> Vec<Array> + 'static) -> Closure<'static> {
        ffi::init();
        let payload = Owned::<Box<Body<'static>>>::into_payload(Box::new(f));
        // SAFETY: the payload matches the two callbacks; C calls the destructor once
        let raw = unsafe {
            sys::mlx_closure_new_func_payload(Some(call_owned), payload, Some(free_owned::<Box<Body<'static>>>))
        };
        Closure { raw, _body: PhantomData }
    }

    /// An empty handle for C to fill.
    pub fn null() -> Closure<'static> {
        ffi::init();
        // SAFETY: no arguments
        Closure { raw: unsafe { sys::mlx_closure_new() }, _body: PhantomData }
    }

    /// Calls the closure, on a large stack.
    #[track_caller]
    pub fn apply(&self, op: &str, args: &[Array]) -> Vec<Array> {
        deep(|| self.apply_here(op, args))
    }

    /// Calls the closure on the stack as it is: where nothing walks a graph.
    #[track_caller]
    pub fn apply_here(&self, op: &str, args: &[Array]) -> Vec<Array> {
        crate::stream::current();
        let inputs = VectorArray::from_arrays(args);
        let mut res = VectorArray::new();
        // SAFETY: valid handles
        let rc = unsafe { sys::mlx_closure_apply(&mut res.raw, self.raw, inputs.raw) };
        finish(op, rc);
        res.to_vec()
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

unsafe extern "C" fn call_owned(
    res: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    shield(|| {
        // SAFETY: `payload` is what `owned` gave; `input` is valid for the call; C takes over the result
        unsafe {
            let f = Owned::<Box<Body<'static>>>::get(payload);
            give(res, &f(&borrow_vector(input)));
        }
        0
    })
}

unsafe extern "C" fn free(payload: *mut c_void) {
    let dropped = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: made by `Box::into_raw` in `scoped`, freed once
        drop(unsafe { Box::from_raw(payload.cast::<Payload<'static>>()) });
    }));
    // a capture that panics while it is dropped has nobody to tell
    dropped.unwrap_or_else(std::mem::forget);
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

/// The error of a fallible closure on its way around C.
pub(crate) struct Slot<E>(RefCell<Option<E>>);

struct Stop;

impl<E> Slot<E> {
    /// The value, or a silent unwind to [`carry`] with the error kept.
    pub fn unwrap<R>(&self, result: Result<R, E>) -> R {
        match result {
            Ok(value) => value,
            Err(e) => {
                *self.0.borrow_mut() = Some(e);
                resume_unwind(Box::new(Stop))
            }
        }
    }
}

/// Runs `f`, in which [`Slot::unwrap`] ends everything with an error.
pub(crate) fn carry<R, E>(f: impl FnOnce(&Slot<E>) -> R) -> Result<R, E> {
    let slot = Slot(RefCell::new(None));
    match catch_unwind(AssertUnwindSafe(|| f(&slot))) {
        Ok(value) => Ok(value),
        Err(payload) => match (payload.downcast::<Stop>(), slot.0.into_inner()) {
            (Ok(_), Some(e)) => Err(e),
            (Ok(stop), None) => resume_unwind(stop),
            (Err(other), _) => resume_unwind(other),
        },
    }
}
