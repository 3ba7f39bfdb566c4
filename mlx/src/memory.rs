//! Memory of MLX's allocator: counters and limits, in bytes.

use crate::ffi;
use mlx_sys as sys;

fn read(f: unsafe extern "C" fn(*mut usize) -> std::ffi::c_int) -> usize {
    ffi::init();
    let mut n = 0;
    // SAFETY: valid out-pointer
    if unsafe { f(&mut n) } != 0 {
        ffi::take_message();
    }
    n
}

fn set(f: unsafe extern "C" fn(*mut usize, usize) -> std::ffi::c_int, limit: usize) -> usize {
    ffi::init();
    let mut n = 0;
    // SAFETY: valid out-pointer
    if unsafe { f(&mut n, limit) } != 0 {
        ffi::take_message();
    }
    n
}

/// Bytes held by live arrays (`mx.get_active_memory`).
pub fn active_memory() -> usize {
    read(sys::mlx_get_active_memory)
}
/// Bytes kept for reuse (`mx.get_cache_memory`).
pub fn cache_memory() -> usize {
    read(sys::mlx_get_cache_memory)
}
/// The highest number of active bytes since the last reset (`mx.get_peak_memory`).
pub fn peak_memory() -> usize {
    read(sys::mlx_get_peak_memory)
}
/// Starts the peak anew (`mx.reset_peak_memory`).
pub fn reset_peak_memory() {
    ffi::init();
    // SAFETY: no arguments
    unsafe { sys::mlx_reset_peak_memory() };
}
/// Gives cached bytes back to the system (`mx.clear_cache`).
pub fn clear_cache() {
    ffi::init();
    // SAFETY: no arguments
    unsafe { sys::mlx_clear_cache() };
}
/// Sets how many bytes are kept for reuse; returns the previous limit (`mx.set_cache_limit`).
pub fn set_cache_limit(bytes: usize) -> usize {
    set(sys::mlx_set_cache_limit, bytes)
}
/// About how many bytes the machine has for arrays; without bound where the backend reports a failed allocation itself.
pub(crate) fn machine_bytes() -> usize {
    static BYTES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *BYTES.get_or_init(|| {
        if crate::cuda_is_available() || crate::metal_is_available() {
            return usize::MAX;
        }
        // MLX's limit starts as 0.8 of the memory
        memory_limit() / 4 * 5
    })
}

/// Sets the size from which allocation waits for running work; returns the previous limit (`mx.set_memory_limit`).
pub fn set_memory_limit(bytes: usize) -> usize {
    machine_bytes();
    set(sys::mlx_set_memory_limit, bytes)
}
/// The size from which allocation waits for running work.
pub fn memory_limit() -> usize {
    read(sys::mlx_get_memory_limit)
}
/// Sets how many bytes Metal keeps resident; returns the previous limit (`mx.set_wired_limit`).
pub fn set_wired_limit(bytes: usize) -> usize {
    set(sys::mlx_set_wired_limit, bytes)
}
