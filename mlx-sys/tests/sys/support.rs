//! Small owners of handles, so that a test reads as what it tests.

use mlx_sys::*;
use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char, c_void},
    ptr::null_mut,
    sync::Once,
};

thread_local!(static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

unsafe extern "C" fn note(text: *const c_char, _: *mut c_void) {
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    SAID.with(|s| s.borrow_mut().push(text));
}

/// Ok for 0, else what the error handler heard first on this thread.
pub fn call(f: impl FnOnce() -> i32) -> Result<(), String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| unsafe { mlx_set_error_handler(Some(note), null_mut(), None) });
    SAID.with(|s| s.borrow_mut().clear());
    if f() == 0 {
        return Ok(());
    }
    Err(SAID.with(|s| s.borrow().first().cloned().unwrap_or_default()))
}

pub struct Array(pub mlx_array);

impl Drop for Array {
    fn drop(&mut self) {
        unsafe { mlx_array_free(self.0) };
    }
}

impl Array {
    pub fn new(data: &[f32], shape: &[i32]) -> Array {
        Array(unsafe { mlx_array_new_data(data.as_ptr().cast(), shape.as_ptr(), shape.len() as i32, MLX_FLOAT32) })
    }

    /// The result of an operation that writes a handle.
    pub fn of(f: impl FnOnce(*mut mlx_array) -> i32) -> Result<Array, String> {
        let mut a = Array(mlx_array_ { ctx: null_mut() });
        let to = &raw mut a.0;
        call(|| f(to)).map(|()| a)
    }

    pub fn eval(&self) -> Result<(), String> {
        call(|| unsafe { mlx_array_eval(self.0) })
    }

    /// The f32 values in row-major order.
    pub fn values(&self) -> Result<Vec<f32>, String> {
        let rows = Array::of(|r| unsafe { mlx_contiguous(r, self.0, false, stream()) })?;
        rows.eval()?;
        let n = unsafe { mlx_array_size(rows.0) };
        Ok((0..n).map(|i| unsafe { *mlx_array_data_float32(rows.0).add(i) }).collect())
    }

    pub fn shape(&self) -> Vec<i32> {
        let n = unsafe { mlx_array_ndim(self.0) };
        (0..n).map(|i| unsafe { *mlx_array_shape(self.0).add(i) }).collect()
    }
}

/// This thread's default CPU stream.
pub fn stream() -> mlx_stream {
    thread_local!(static STREAM: mlx_stream = unsafe { mlx_default_cpu_stream_new() });
    STREAM.with(|s| *s)
}

/// A vector of arrays; the caller frees it.
pub fn vector(arrays: &[&Array]) -> mlx_vector_array {
    let raw: Vec<mlx_array> = arrays.iter().map(|a| a.0).collect();
    unsafe { mlx_vector_array_new_data(raw.as_ptr(), raw.len()) }
}

/// Takes a vector apart and frees it.
pub fn arrays(v: mlx_vector_array) -> Vec<Array> {
    let n = unsafe { mlx_vector_array_size(v) };
    let all = (0..n).map(|i| Array::of(|r| unsafe { mlx_vector_array_get(r, v, i) }).unwrap()).collect();
    unsafe { mlx_vector_array_free(v) };
    all
}

pub fn text(f: impl FnOnce(*mut mlx_string) -> i32) -> Result<String, String> {
    unsafe {
        let mut s = mlx_string_new();
        let to = &raw mut s;
        let result = call(|| f(to)).map(|()| CStr::from_ptr(mlx_string_data(s)).to_string_lossy().into_owned());
        mlx_string_free(s);
        result
    }
}

pub fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// A null closure.
pub fn no_closure() -> mlx_closure {
    mlx_closure_ { ctx: null_mut() }
}

pub fn fact<T: Default>(f: impl FnOnce(*mut T) -> i32) -> T {
    let mut x = T::default();
    let to = &raw mut x;
    call(|| f(to)).unwrap();
    x
}
