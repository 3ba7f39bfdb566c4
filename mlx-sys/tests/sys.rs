//! The raw binding, tried directly.

use mlx_sys::*;
use std::{ffi::CStr, ptr::null_mut};

fn array(x: f32) -> mlx_array {
    unsafe { mlx_array_new_float32(x) }
}

#[test]
fn two_arrays_add() {
    unsafe {
        let stream = mlx_default_cpu_stream_new();
        let (a, b) = (array(2.0), array(40.5));
        let mut sum = mlx_array_ { ctx: null_mut() };
        assert_eq!(mlx_add(&mut sum, a, b, stream), 0);
        let mut status = -1;
        assert_eq!(mlxs_array_status(&mut status, sum), 0);
        assert_eq!(status, 0);
        let mut name = mlx_string_new();
        assert_eq!(mlxs_array_primitive_name(&mut name, sum), 0);
        assert_eq!(CStr::from_ptr(mlx_string_data(name)).to_str(), Ok("Add"));
        mlx_string_free(name);
        assert_eq!(mlx_array_eval(sum), 0);
        let mut x = 0.0;
        assert_eq!(mlx_array_item_float32(&mut x, sum), 0);
        assert_eq!(x, 42.5);
        for a in [a, b, sum] {
            mlx_array_free(a);
        }
        mlx_stream_free(stream);
    }
}

#[test]
fn the_library_is_the_pinned_one() {
    unsafe {
        let mut version = mlx_string_new();
        assert_eq!(mlx_version(&mut version), 0);
        assert_eq!(CStr::from_ptr(mlx_string_data(version)).to_str(), Ok(BUILD.mlx_version));
        mlx_string_free(version);
    }
}
