//! The one place where C return codes become Rust errors.

use crate::error::{Error, Result, raise};
use crate::{Array, stream};
use mlx_sys as sys;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Once;

thread_local! { static FIRST: RefCell<Option<String>> = const { RefCell::new(None) }; }

/// Keeps the first message since the last failing call: a failing closure reports twice, the cause comes first.
unsafe extern "C" fn on_error(message: *const c_char, _: *mut c_void) {
    // SAFETY: MLX passes a NUL-terminated string that lives for this call
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    let _ = FIRST.try_with(|slot| {
        if let Ok(mut slot) = slot.try_borrow_mut() {
            slot.get_or_insert_with(|| strip_location(&text));
        }
    });
}

/// mlx-c appends " at file:line" of its own source: no help to a user.
fn strip_location(text: &str) -> String {
    match text.rfind(" at ") {
        Some(i) if text[i..].contains(".cpp:") => text[..i].to_string(),
        _ => text.to_string(),
    }
}

/// Installs the error handler; must run before any call that can fail.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler is a plain function that never unwinds
        unsafe { sys::mlx_set_error_handler(Some(on_error), std::ptr::null_mut(), None) }
    });
}

/// The message of the call that has just failed on this thread.
pub(crate) fn take_message() -> String {
    FIRST.with(|m| m.borrow_mut().take()).unwrap_or_else(|| "unknown error".into())
}

/// `Ok` for return code 0, else what `wrap` makes of the message.
pub(crate) fn check(rc: c_int, wrap: impl FnOnce(String) -> Error) -> Result<()> {
    if rc == 0 { Ok(()) } else { Err(wrap(take_message())) }
}

fn with_shapes(message: String, inputs: &[&Array]) -> String {
    if inputs.is_empty() {
        return message;
    }
    let list: Vec<String> = inputs.iter().map(|a| format!("{:?} {}", a.shape(), a.dtype())).collect();
    format!("{message} (operands: {})", list.join(", "))
}

/// Ops whose result shares the buffer of an operand, however large its shape is.
const VIEWS: &[&str] = &[
    "as_strided",
    "broadcast_arrays",
    "broadcast_to",
    "expand_dims",
    "flatten",
    "index",
    "moveaxis",
    "reshape",
    "slice",
    "squeeze",
    "stop_gradient",
    "swapaxes",
    "transpose",
    "unflatten",
];

/// Looks at the size of a result. One that no memory can hold is refused: MLX's CPU allocator hands out null then, and
/// MLX writes to it. One without elements becomes a constant: several CPU kernels divide by its size or loop for ever.
#[track_caller]
fn sized(name: &str, a: Array) -> Array {
    // in floating point: nothing overflows
    let elements = a.shape().iter().fold(1.0, |n, &d| n * d as f64);
    if elements > (1u64 << 28) as f64 {
        check_large(name, &a, elements);
    } else if elements == 0.0 {
        return Array::from_raw_bytes(&[], a.shape(), a.dtype());
    }
    a
}

#[cold]
#[track_caller]
fn check_large(name: &str, a: &Array, elements: f64) {
    let fits = elements * a.itemsize() as f64 <= crate::memory::machine_bytes() as f64;
    if elements > (1u64 << 40) as f64 || !fits && !VIEWS.contains(&name) {
        raise(Error::op(name, format!("a result of {:?} {} does not fit into memory", a.shape(), a.dtype())));
    }
}

/// Runs one op that writes one array on the current stream; panics with name and operand shapes if MLX refuses.
#[track_caller]
pub(crate) fn op(
    name: &str,
    inputs: &[&Array],
    f: impl FnOnce(*mut sys::mlx_array, sys::mlx_stream) -> c_int,
) -> Array {
    let stream = stream::current();
    let mut res = Array::null();
    if f(&mut res.raw, stream) == 0 {
        return sized(name, res);
    }
    raise(Error::op(name, with_shapes(take_message(), inputs)))
}

/// As [`op`] for an op that only shows its operand otherwise: never more elements than that has, so nothing to measure.
#[track_caller]
#[inline]
pub(crate) fn view(name: &str, input: &Array, f: impl FnOnce(*mut sys::mlx_array, sys::mlx_stream) -> c_int) -> Array {
    let stream = stream::current();
    let mut res = Array::null();
    if f(&mut res.raw, stream) == 0 {
        return res;
    }
    raise(Error::op(name, with_shapes(take_message(), &[input])))
}

/// As [`op`] for ops with several results.
#[track_caller]
pub(crate) fn op_many(
    name: &str,
    inputs: &[&Array],
    f: impl FnOnce(*mut sys::mlx_vector_array, sys::mlx_stream) -> c_int,
) -> Vec<Array> {
    let stream = stream::current();
    let mut res = VectorArray::new();
    if f(&mut res.raw, stream) == 0 {
        return res.to_vec().into_iter().map(|a| sized(name, a)).collect();
    }
    raise(Error::op(name, with_shapes(take_message(), inputs)))
}

/// As [`op`] for ops with two results.
#[track_caller]
pub(crate) fn op_pair(
    name: &str,
    inputs: &[&Array],
    f: impl FnOnce(*mut sys::mlx_array, *mut sys::mlx_array, sys::mlx_stream) -> c_int,
) -> (Array, Array) {
    let stream = stream::current();
    let (mut a, mut b) = (Array::null(), Array::null());
    if f(&mut a.raw, &mut b.raw, stream) == 0 {
        return (sized(name, a), sized(name, b));
    }
    raise(Error::op(name, with_shapes(take_message(), inputs)))
}

/// An owned `mlx_vector_array`.
pub(crate) struct VectorArray {
    pub raw: sys::mlx_vector_array,
}

impl VectorArray {
    pub fn new() -> Self {
        init();
        // SAFETY: no arguments
        VectorArray { raw: unsafe { sys::mlx_vector_array_new() } }
    }

    pub fn from_arrays<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Self {
        let raws: smallvec::SmallVec<[sys::mlx_array; 8]> = arrays.into_iter().map(|a| a.raw).collect();
        init();
        // SAFETY: `raws` holds valid handles for the call; C copies them
        VectorArray { raw: unsafe { sys::mlx_vector_array_new_data(raws.as_ptr(), raws.len()) } }
    }

    pub fn len(&self) -> usize {
        if self.raw.ctx.is_null() {
            return 0;
        }
        // SAFETY: non-null handle
        unsafe { sys::mlx_vector_array_size(self.raw) }
    }

    pub fn to_vec(&self) -> Vec<Array> {
        // SAFETY: the handle is valid and not owned by the view
        unsafe { borrow_vector(self.raw) }
    }
}

impl Drop for VectorArray {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once; freeing null is allowed
        unsafe { sys::mlx_vector_array_free(self.raw) };
    }
}

/// New handles to all arrays of a vector that C owns.
///
/// # Safety
/// `raw` is null or a valid vector handle.
pub(crate) unsafe fn borrow_vector(raw: sys::mlx_vector_array) -> Vec<Array> {
    if raw.ctx.is_null() {
        return Vec::new();
    }
    // SAFETY: valid handle by contract; indices are in range
    let n = unsafe { sys::mlx_vector_array_size(raw) };
    (0..n)
        .map(|i| {
            let mut a = Array::null();
            unsafe { sys::mlx_vector_array_get(&mut a.raw, raw, i) };
            a
        })
        .collect()
}

pub(crate) fn optional_int(v: Option<i32>) -> sys::mlx_optional_int {
    sys::mlx_optional_int { value: v.unwrap_or(0), has_value: v.is_some() }
}
pub(crate) fn optional_float(v: Option<f32>) -> sys::mlx_optional_float {
    sys::mlx_optional_float { value: v.unwrap_or(0.0), has_value: v.is_some() }
}
pub(crate) fn optional_dtype(v: Option<crate::Dtype>) -> sys::mlx_optional_dtype {
    sys::mlx_optional_dtype { value: v.unwrap_or(crate::Dtype::Float32).raw(), has_value: v.is_some() }
}
/// The handle of an optional array argument ("may be null").
pub(crate) fn nullable(a: Option<&Array>) -> sys::mlx_array {
    a.map_or(sys::mlx_array { ctx: std::ptr::null_mut() }, |a| a.raw)
}
