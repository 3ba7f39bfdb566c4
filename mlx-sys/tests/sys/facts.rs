//! What the shim tells about arrays.

use crate::support::*;
use mlx_sys::*;
use std::ptr::null_mut;

fn add(a: &Array, b: &Array) -> Array {
    Array::of(|r| unsafe { mlx_add(r, a.0, b.0, stream()) }).unwrap()
}

#[test]
fn two_arrays_add() {
    let sum = add(&Array::new(&[2.0, 0.5], &[2]), &Array::new(&[40.5, 1.0], &[2]));
    assert_eq!(sum.values().unwrap(), [42.5, 1.5]);
}

#[test]
fn the_library_is_the_pinned_one() {
    assert_eq!(text(|r| unsafe { mlx_version(r) }).unwrap(), BUILD.mlx_version);
}

#[test]
fn a_graph_node_knows_its_operation_and_inputs_until_it_is_evaluated() {
    let (a, b) = (Array::new(&[1.0], &[1]), Array::new(&[2.0], &[1]));
    let sum = add(&a, &b);
    let status = || fact::<i32>(|r| unsafe { mlxs_array_status(r, sum.0) });
    let name = || text(|r| unsafe { mlxs_array_primitive_name(r, sum.0) }).unwrap();
    let id = |x: &Array| fact::<usize>(|r| unsafe { mlxs_array_id(r, x.0) });
    let inputs = || {
        let mut v = mlx_vector_array_ { ctx: null_mut() };
        call(|| unsafe { mlxs_array_inputs(&mut v, sum.0) }).unwrap();
        arrays(v)
    };
    assert_eq!(status(), 0);
    assert_eq!(name(), "Add");
    assert!(fact::<bool>(|r| unsafe { mlxs_array_has_primitive(r, sum.0) }));
    assert!(!fact::<bool>(|r| unsafe { mlxs_array_has_primitive(r, a.0) }));
    assert!(!fact::<bool>(|r| unsafe { mlxs_array_is_tracer(r, sum.0) }));
    assert_ne!(fact::<usize>(|r| unsafe { mlxs_array_primitive_id(r, sum.0) }), 0);
    assert_eq!(inputs().iter().map(id).collect::<Vec<_>>(), [id(&a), id(&b)]);
    sum.eval().unwrap();
    assert_eq!(status(), 2);
    assert_eq!((name(), inputs().len()), (String::new(), 0));
}

#[test]
fn a_view_lies_in_the_buffer_of_what_it_shows() {
    let place = |x: &Array| {
        let (mut buffer, mut offset) = (1, 1);
        call(|| unsafe { mlxs_array_buffer(&mut buffer, &mut offset, x.0) }).unwrap();
        (buffer, offset)
    };
    let a = Array::new(&[1.0, 2.0, 3.0, 4.0], &[4]);
    let tail = Array::of(|r| unsafe { mlx_slice(r, a.0, [2].as_ptr(), 1, [4].as_ptr(), 1, [1].as_ptr(), 1, stream()) });
    let tail = tail.unwrap();
    assert_eq!(place(&tail), (0, 0)); // not computed yet
    tail.eval().unwrap();
    assert_eq!((place(&tail).0, place(&tail).1 - place(&a).1), (place(&a).0, 8));
    assert_ne!(place(&Array::new(&[1.0], &[1])).0, place(&a).0);
}

#[test]
fn use_counts_see_every_handle_and_detach_cuts_the_graph() {
    let a = Array::new(&[1.0, 2.0], &[2]);
    let uses = |x: &Array| fact::<usize>(|r| unsafe { mlxs_array_use_count(r, x.0) });
    assert_eq!(uses(&a), 1);
    let again = Array::of(|r| unsafe { mlx_array_set(r, a.0) }).unwrap();
    assert_eq!(uses(&a), 2);
    let sum = add(&a, &a);
    assert_eq!(uses(&a), 4);
    sum.eval().unwrap();
    call(|| unsafe { mlxs_array_detach(sum.0) }).unwrap();
    drop(again);
    assert_eq!(uses(&a), 1);
    // a view shares the buffer, not the node
    let view = Array::of(|r| unsafe { mlx_reshape(r, sum.0, [1, 2].as_ptr(), 2, stream()) }).unwrap();
    view.eval().unwrap();
    assert_eq!(uses(&sum), 1);
    assert_eq!(fact::<usize>(|r| unsafe { mlxs_array_data_use_count(r, sum.0) }), 2);
    assert_eq!(fact::<usize>(|r| unsafe { mlxs_array_data_size(r, view.0) }), 2);
}

#[test]
fn a_null_handle_is_an_error() {
    let none = mlx_array_ { ctx: null_mut() };
    let mut n = 0;
    let e = call(|| unsafe { mlxs_array_use_count(&mut n, none) }).unwrap_err();
    assert!(e.contains("non-empty"), "{e}");
}

#[test]
fn an_unusable_cuda_kernel_call_is_an_error() {
    // on the CPU build the function is there and says what is missing
    if BUILD.backend != "cpu" {
        return;
    }
    let x = Array::new(&[1.0], &[1]);
    let inputs = vector(&[&x]);
    let mut out = mlx_vector_array_ { ctx: null_mut() };
    let (dims, one) = ([1], [1, 1, 1]);
    let e = call(|| unsafe {
        mlxs_precompiled_cuda_kernel(
            &mut out,
            c"nothing".as_ptr(),
            c"x".as_ptr(),
            1,
            inputs,
            [dims.as_ptr()].as_ptr(),
            [1].as_ptr(),
            [MLX_FLOAT32].as_ptr(),
            1,
            [mlxs_scalar { kind: 1, integer: 3, real: 0.0 }].as_ptr(),
            1,
            one.as_ptr(),
            one.as_ptr(),
            0,
            std::ptr::null(),
            true,
            stream(),
        )
    });
    unsafe { mlx_vector_array_free(inputs) };
    assert!(e.unwrap_err().to_lowercase().contains("cuda"));
}
