//! Error text arrives as it is, and nothing ends the process.

use crate::support::*;
use mlx_sys::*;
use std::{
    ffi::{c_char, c_int, c_void},
    ptr::null_mut,
};

#[test]
fn a_percent_sign_in_a_path_comes_back_verbatim() {
    let path = c("no such %n%s%d%f file.npy");
    let e = Array::of(|r| unsafe { mlx_load(r, path.as_ptr(), stream()) }).err().unwrap();
    assert!(e.contains("no such %n%s%d%f file.npy"), "{e}");
}

#[test]
fn a_bare_literal_that_mlx_throws_is_an_error() {
    // scatter with boolean indices: MLX throws a string literal, which mlx-c does not catch
    let a = Array::new(&[1.0, 2.0], &[2]);
    let mask = Array(unsafe { mlx_array_new_bool(true) });
    let updates = Array::new(&[3.0], &[1, 1]);
    let indices = vector(&[&mask]);
    let e = Array::of(|r| unsafe { mlx_scatter(r, a.0, indices, updates.0, [0].as_ptr(), 1, stream()) }).err().unwrap();
    unsafe { mlx_vector_array_free(indices) };
    assert!(e.to_lowercase().contains("bool"), "{e}");
}

#[test]
fn a_shape_error_names_the_shapes_and_the_next_call_works() {
    let (a, b) = (Array::new(&[1.0, 2.0], &[2]), Array::new(&[1.0, 2.0, 3.0], &[3]));
    let e = Array::of(|r| unsafe { mlx_add(r, a.0, b.0, stream()) }).err().unwrap();
    assert!(e.contains("(2)") && e.contains("(3)"), "{e}");
    let sum = Array::of(|r| unsafe { mlx_add(r, a.0, a.0, stream()) }).unwrap();
    assert_eq!(sum.values().unwrap(), [2.0, 4.0]);
}

#[test]
fn null_streams_and_devices_are_errors() {
    let s = mlx_stream_ { ctx: null_mut() };
    let d = mlx_device_ { ctx: null_mut() };
    let mut same = false;
    assert!(call(|| unsafe { mlxs_stream_equal(&mut same, s, stream()) }).is_err());
    assert!(call(|| unsafe { mlxs_device_equal(&mut same, d, d) }).is_err());
    call(|| unsafe { mlxs_stream_equal(&mut same, stream(), stream()) }).unwrap();
    assert!(same);
}

const LABEL: &[u8] = b"label {} %n%s\0";

unsafe extern "C" fn yes(_: *mut c_void) -> bool {
    true
}
unsafe extern "C" fn zero(_: *mut c_void) -> usize {
    0
}
unsafe extern "C" fn seek(_: *mut c_void, _: i64, _: c_int) -> c_int {
    0
}
unsafe extern "C" fn read(_: *mut c_void, to: *mut c_char, n: usize) -> usize {
    unsafe { std::ptr::write_bytes(to, 0xff, n) };
    n
}
unsafe extern "C" fn read_at(_: *mut c_void, to: *mut c_char, n: usize, _: usize) -> usize {
    unsafe { read(null_mut(), to, n) }
}
unsafe extern "C" fn write(_: *mut c_void, _: *const c_char, n: usize) -> usize {
    n
}
unsafe extern "C" fn label(_: *mut c_void) -> *const c_char {
    LABEL.as_ptr().cast()
}
unsafe extern "C" fn free(_: *mut c_void) {}

#[test]
fn a_readers_label_is_formatted_once_and_never_read_as_a_format() {
    let vtable = mlx_io_vtable_ {
        is_open: Some(yes),
        good: Some(yes),
        tell: Some(zero),
        seek: Some(seek),
        read: Some(read),
        read_at_offset: Some(read_at),
        write: Some(write),
        label: Some(label),
        free: Some(free),
    };
    let reader = unsafe { mlx_io_reader_new(null_mut(), vtable) };
    let e = Array::of(|r| unsafe { mlx_load_reader(r, reader, stream()) }).err().unwrap();
    unsafe { mlx_io_reader_free(reader) };
    assert!(e.contains("label {} %n%s"), "{e}");
}
