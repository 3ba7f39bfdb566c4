//! Streams: where ops are queued. The current stream is thread-local, so no op carries one.
//!
//! Each Rust thread works on streams of its own, taken from a process-wide pool and given back when the thread ends:
//! MLX keeps an OS thread per CPU stream for ever, so streams are reused, not created per thread.

use crate::device::{self, Device};
use crate::error::{Error, Result, raise};
use crate::ffi;
use mlx_sys as sys;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Mutex;

/// A queue of ops on one device. Bound to the thread that made it.
#[derive(Clone)]
pub struct Stream {
    inner: Rc<Pooled>,
    _not_send: PhantomData<*const ()>,
}

/// A stream taken from the pool; returns to it when dropped.
struct Pooled {
    raw: sys::mlx_stream,
    device: Device,
}

struct Free(sys::mlx_stream, Device);
// SAFETY: a stream in the pool is idle and owned by nobody; MLX's thread-unsafe streams may move between threads
unsafe impl Send for Free {}

static POOL: Mutex<Vec<Free>> = Mutex::new(Vec::new());

impl Pooled {
    fn take(device: Device) -> Result<Pooled> {
        ffi::init();
        let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(i) = pool.iter().position(|f| f.1 == device) {
            return Ok(Pooled { raw: pool.swap_remove(i).0, device });
        }
        drop(pool);
        // SAFETY: valid device handle; null result is checked
        let raw = unsafe { sys::mlx_stream_new_thread_unsafe(device::Handle::new(device).0) };
        if raw.ctx.is_null() {
            return Err(Error::Unavailable(format!("no stream on device {device}: {}", ffi::take_message())));
        }
        if device != Device::Cpu {
            skip_teardown_at_exit();
        }
        Ok(Pooled { raw, device })
    }
}

/// MLX 0.32.2 tears its CUDA encoders down after the driver has gone and ends the process with an abort. The work is done
/// when the program ends: the status that it ends with stands, the rest of the teardown is left to the system.
#[cfg(target_os = "linux")]
fn skip_teardown_at_exit() {
    use std::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn on_exit(f: unsafe extern "C" fn(c_int, *mut c_void), arg: *mut c_void) -> c_int;
        fn _exit(status: c_int) -> !;
    }
    unsafe extern "C" fn end(status: c_int, _: *mut c_void) {
        // SAFETY: ends the process; Rust's and C's buffers were flushed before handlers run
        unsafe { _exit(status) }
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: a handler without state, registered once; handlers registered later run before it
    ONCE.call_once(|| unsafe {
        on_exit(end, std::ptr::null_mut());
    });
}

#[cfg(not(target_os = "linux"))]
fn skip_teardown_at_exit() {}

impl Drop for Pooled {
    fn drop(&mut self) {
        // pending work must end before another thread may use the stream; a stored error is dropped with its graphs
        // SAFETY: valid stream handle
        if unsafe { sys::mlx_synchronize(self.raw) } != 0 {
            ffi::take_message();
        }
        POOL.lock().unwrap_or_else(|e| e.into_inner()).push(Free(self.raw, self.device));
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut index = 0;
        // SAFETY: valid handle
        unsafe { sys::mlx_stream_get_index(&mut index, self.inner.raw) };
        write!(f, "Stream({}, {index})", self.inner.device)
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Stream {
    /// A new stream on `device` (`mx.new_stream`).
    pub fn new(device: Device) -> Result<Stream> {
        Ok(Stream { inner: Rc::new(Pooled::take(device)?), _not_send: PhantomData })
    }

    /// This thread's default stream of `device` (`mx.default_stream`).
    pub fn default_of(device: Device) -> Result<Stream> {
        THREAD.with(|t| t.default_of(device))
    }

    pub fn device(&self) -> Device {
        self.inner.device
    }

    /// Waits until everything queued here is done; reports the failure of any of it (`mx.synchronize`).
    pub fn synchronize(&self) -> Result<()> {
        crate::pending::finish()?;
        // SAFETY: valid handle
        ffi::check(unsafe { sys::mlx_synchronize(self.inner.raw) }, |message| Error::Eval { message })
    }
}

/// The streams that one thread uses by default.
struct ThreadStreams {
    defaults: RefCell<Vec<Stream>>,
    device: Cell<Option<Device>>,
}

impl ThreadStreams {
    fn default_of(&self, device: Device) -> Result<Stream> {
        if let Some(s) = self.defaults.borrow().iter().find(|s| s.device() == device) {
            return Ok(s.clone());
        }
        let s = Stream::new(device)?;
        // MLX's own helpers (the synchroniser of eval) use the thread's default stream: make it this one
        // SAFETY: valid handle
        ffi::check(unsafe { sys::mlx_set_default_stream(s.inner.raw) }, Error::Unavailable)?;
        self.defaults.borrow_mut().push(s.clone());
        Ok(s)
    }
}

thread_local! {
    static THREAD: ThreadStreams = const { ThreadStreams { defaults: RefCell::new(Vec::new()), device: Cell::new(None) } };
    /// The raw handle of the current stream, null before the first use; kept alive by `THREAD` or by a scope.
    static CURRENT: Cell<*mut std::ffi::c_void> = const { Cell::new(std::ptr::null_mut()) };
    /// Whether that stream is the CPU's.
    static ON_CPU: Cell<bool> = const { Cell::new(false) };
}

/// The current stream's C handle.
#[track_caller]
pub(crate) fn current() -> sys::mlx_stream {
    let ctx = CURRENT.get();
    if !ctx.is_null() {
        return sys::mlx_stream { ctx };
    }
    let stream = default_stream();
    enter(&stream);
    stream.inner.raw
}

fn enter(stream: &Stream) {
    CURRENT.set(stream.inner.raw.ctx);
    ON_CPU.set(stream.device() == Device::Cpu);
}

/// Whether the current stream is the CPU's.
pub(crate) fn is_cpu() -> bool {
    current();
    ON_CPU.get()
}

/// Whether ops of this thread go to an NVIDIA card at present.
pub(crate) fn is_cuda() -> bool {
    crate::cuda_is_available() && !is_cpu()
}

/// The stream that ops of this thread go to outside of any `with_stream` scope.
#[track_caller]
pub fn default_stream() -> Stream {
    THREAD.with(|t| {
        let device = t.device.get().unwrap_or_else(Device::default_device);
        t.default_of(device).unwrap_or_else(|e| raise(e))
    })
}

/// Makes `stream` the one that ops of this thread go to outside of any scope (`mx.set_default_stream`).
pub fn set_default_stream(stream: &Stream) -> Result<()> {
    // SAFETY: valid handle
    ffi::check(unsafe { sys::mlx_set_default_stream(stream.inner.raw) }, Error::Unavailable)?;
    THREAD.with(|t| {
        // the one before stays alive: an open scope may go back to it
        t.defaults.borrow_mut().insert(0, stream.clone());
        t.device.set(Some(stream.device()));
    });
    if SCOPES.with(|s| s.borrow().is_empty()) {
        CURRENT.set(stream.inner.raw.ctx);
    }
    Ok(())
}

/// Sets the default device of the calling thread (`mx.set_default_device`).
pub fn set_default_device(device: Device) -> Result<()> {
    THREAD.with(|t| {
        let stream = t.default_of(device)?;
        t.device.set(Some(device));
        enter(&stream);
        Ok(())
    })
}

/// The device of the current stream's scope on this thread.
pub fn default_device() -> Device {
    SCOPES
        .with(|s| s.borrow().last().map(Stream::device))
        .or_else(|| THREAD.with(|t| t.device.get()))
        .unwrap_or_else(Device::default_device)
}

thread_local! { static SCOPES: RefCell<Vec<Stream>> = const { RefCell::new(Vec::new()) }; }

/// Runs `f` with all its ops on `stream` (`with mx.stream(s):`).
pub fn with_stream<R>(stream: &Stream, f: impl FnOnce() -> R) -> R {
    struct Scope(*mut std::ffi::c_void, bool);
    impl Drop for Scope {
        fn drop(&mut self) {
            CURRENT.set(self.0);
            ON_CPU.set(self.1);
            SCOPES.with(|s| s.borrow_mut().pop());
        }
    }
    SCOPES.with(|s| s.borrow_mut().push(stream.clone()));
    let _scope = Scope(CURRENT.get(), ON_CPU.get());
    enter(stream);
    f()
}

/// Runs `f` with all its ops on `device`; panics if the machine does not have it.
#[track_caller]
pub fn with_device<R>(device: Device, f: impl FnOnce() -> R) -> R {
    let stream = Stream::default_of(device).unwrap_or_else(|e| raise(e));
    with_stream(&stream, f)
}

/// Waits for everything queued on this thread's current stream.
pub fn synchronize() -> Result<()> {
    crate::pending::finish()?;
    // SAFETY: valid handle
    ffi::check(unsafe { sys::mlx_synchronize(current()) }, |message| Error::Eval { message })
}
