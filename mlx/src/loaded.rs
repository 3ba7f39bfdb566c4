//! Which libraries this process runs on; how they were built is in [`mlx_sys::BUILD`].

use crate::ffi;
use mlx_sys as sys;
use std::ffi::{CStr, c_int};

fn text(f: unsafe extern "C" fn(*mut sys::mlx_string) -> c_int) -> String {
    ffi::init();
    // SAFETY: `f` fills the string it is given, which is read and freed here
    unsafe {
        let mut s = sys::mlx_string_new();
        let rc = f(&mut s);
        let data = sys::mlx_string_data(s);
        let text = if rc == 0 && !data.is_null() {
            CStr::from_ptr(data).to_string_lossy().into_owned()
        } else {
            ffi::take_message()
        };
        sys::mlx_string_free(s);
        text
    }
}

/// Version of the MLX that is loaded (`mx.__version__`).
pub fn version() -> String {
    text(sys::mlx_version)
}
/// Path of the libmlx that is loaded: the loader path may have put another one first.
pub fn loaded_library() -> String {
    text(sys::mlxs_loaded_mlx)
}
/// What the loaded OpenBLAS says of itself (version, processor, threads); empty with another BLAS.
pub fn loaded_blas() -> String {
    text(sys::mlxs_loaded_blas)
}
