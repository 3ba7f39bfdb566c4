//! What only Metal has (`mlx.core.metal`): captures of GPU work. Memory counters and device facts are in
//! [`memory`](crate::memory) and [`Device::info`](crate::Device::info) for every backend.

use crate::error::{Error, Result};
use crate::ffi;
use mlx_sys as sys;
use std::ffi::CString;
use std::path::Path;

pub use crate::device::metal_is_available as is_available;

/// Starts a capture into a `.gputrace` file, which must not exist yet.
///
/// # Errors
/// If Metal is not there or refuses.
pub fn start_capture(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    available()?;
    let text = CString::new(path.to_string_lossy().as_bytes()).map_err(|_| Error::file(path, "a NUL in the path"))?;
    // SAFETY: a valid string
    ffi::check(unsafe { sys::mlx_metal_start_capture(text.as_ptr()) }, |m| Error::file(path, m))
}

/// Ends the capture.
///
/// # Errors
/// If Metal is not there or refuses.
pub fn stop_capture() -> Result<()> {
    available()?;
    // SAFETY: no arguments
    ffi::check(unsafe { sys::mlx_metal_stop_capture() }, Error::Unavailable)
}

fn available() -> Result<()> {
    ffi::init();
    if is_available() { Ok(()) } else { Err(Error::Unavailable("Metal is not available".into())) }
}
