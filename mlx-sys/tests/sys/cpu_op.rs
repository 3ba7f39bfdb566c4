//! Rust kernels as operations of a lazy graph.

use crate::support::*;
use mlx_sys::*;
use std::{
    ffi::{c_int, c_void},
    ptr::null_mut,
    slice,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Sum and elementwise product of two f32 arrays of one shape; the payload is a factor.
unsafe extern "C" fn sum_and_product(
    x: *const mlxs_view,
    n: usize,
    y: *const mlxs_view,
    m: usize,
    payload: *mut c_void,
) -> c_int {
    unsafe {
        assert_eq!((n, m), (2, 2));
        let (x, y) = (slice::from_raw_parts(x, n), slice::from_raw_parts(y, m));
        let factor = *payload.cast::<f32>();
        let len: i32 = slice::from_raw_parts(x[0].shape, x[0].ndim as usize).iter().product();
        let data = |v: &mlxs_view| slice::from_raw_parts_mut(v.data.cast::<f32>(), len as usize);
        for i in 0..len as usize {
            data(&y[0])[i] = factor * (data(&x[0])[i] + data(&x[1])[i]);
            data(&y[1])[i] = data(&x[0])[i] * data(&x[1])[i];
        }
    }
    0
}

/// The same from plain operations, for factor 1.
unsafe extern "C" fn plain(res: *mut mlx_vector_array, args: mlx_vector_array) -> c_int {
    unsafe {
        let n = mlx_vector_array_size(args);
        let x: Vec<Array> = (0..n).map(|i| Array::of(|r| mlx_vector_array_get(r, args, i)).unwrap()).collect();
        let sum = Array::of(|r| mlx_add(r, x[0].0, x[1].0, stream())).unwrap();
        let product = Array::of(|r| mlx_multiply(r, x[0].0, x[1].0, stream())).unwrap();
        *res = vector(&[&sum, &product]);
    }
    0
}

static DROPPED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn drop_factor(p: *mut c_void) {
    drop(unsafe { Box::from_raw(p.cast::<f32>()) });
    DROPPED.fetch_add(1, Ordering::SeqCst);
}

fn op(x: &[&Array], factor: f32, fallback: mlx_closure, on: mlx_stream) -> Result<Vec<Array>, String> {
    let inputs = vector(x);
    let shape = x[0].shape();
    let mut out = mlx_vector_array_ { ctx: null_mut() };
    let result = call(|| unsafe {
        mlxs_cpu_op(
            &mut out,
            c"SumAndProduct".as_ptr(),
            inputs,
            [shape.as_ptr(); 2].as_ptr(),
            [shape.len(); 2].as_ptr(),
            [MLX_FLOAT32; 2].as_ptr(),
            2,
            sum_and_product,
            Box::into_raw(Box::new(factor)).cast(),
            Some(drop_factor),
            0,
            fallback,
            on,
        )
    });
    unsafe { mlx_vector_array_free(inputs) };
    result.map(|()| arrays(out))
}

#[test]
fn a_kernel_gives_several_outputs_and_its_payload_is_dropped_once() {
    let before = DROPPED.load(Ordering::SeqCst);
    let (a, b) = (Array::new(&[1.0, 2.0, 3.0], &[3]), Array::new(&[10.0, 20.0, 30.0], &[3]));
    let y = op(&[&a, &b], 2.0, no_closure(), stream()).unwrap();
    assert_eq!(text(|r| unsafe { mlxs_array_primitive_name(r, y[1].0) }).unwrap(), "SumAndProduct");
    assert_eq!(y[0].values().unwrap(), [22.0, 44.0, 66.0]);
    assert_eq!(y[1].values().unwrap(), [10.0, 40.0, 90.0]);
    drop(y);
    assert!(DROPPED.load(Ordering::SeqCst) > before);
}

#[test]
fn strided_inputs_arrive_as_rows() {
    let a = Array::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
    let t = Array::of(|r| unsafe { mlx_transpose(r, a.0, stream()) }).unwrap();
    let one = Array::new(&[100.0], &[1]);
    let wide = Array::of(|r| unsafe { mlx_broadcast_to(r, one.0, [3, 2].as_ptr(), 2, stream()) }).unwrap();
    let y = op(&[&t, &wide], 1.0, no_closure(), stream()).unwrap();
    assert_eq!(y[0].values().unwrap(), [101.0, 104.0, 102.0, 105.0, 103.0, 106.0]);
    assert_eq!(y[1].values().unwrap(), [100.0, 400.0, 200.0, 500.0, 300.0, 600.0]);
}

unsafe extern "C" fn refuses(_: *const mlxs_view, _: usize, _: *const mlxs_view, _: usize, _: *mut c_void) -> c_int {
    7
}

#[test]
fn a_kernel_that_fails_makes_the_evaluation_fail() {
    let x = Array::new(&[1.0], &[1]);
    let inputs = vector(&[&x]);
    let mut out = mlx_vector_array_ { ctx: null_mut() };
    let dims = [1];
    call(|| unsafe {
        mlxs_cpu_op(
            &mut out,
            c"Refuses".as_ptr(),
            inputs,
            [dims.as_ptr()].as_ptr(),
            [1].as_ptr(),
            [MLX_FLOAT32].as_ptr(),
            1,
            refuses,
            null_mut(),
            None,
            0,
            no_closure(),
            stream(),
        )
    })
    .unwrap();
    unsafe { mlx_vector_array_free(inputs) };
    let e = arrays(out)[0].eval().unwrap_err();
    assert!(e.contains("[Refuses]") && e.contains('7'), "{e}");
}

/// Strides as the kernel saw them, written to the output.
unsafe extern "C" fn strides(x: *const mlxs_view, _: usize, y: *const mlxs_view, _: usize, _: *mut c_void) -> c_int {
    unsafe {
        for i in 0..2 {
            *(*y).data.cast::<f32>().add(i) = *(*x).strides.add(i) as f32;
        }
    }
    0
}

#[test]
fn an_input_can_be_taken_as_it_lies() {
    let a = Array::new(&[0.0; 6], &[2, 3]);
    let t = Array::of(|r| unsafe { mlx_transpose(r, a.0, stream()) }).unwrap();
    let seen = |strided: u64| {
        let inputs = vector(&[&t]);
        let mut out = mlx_vector_array_ { ctx: null_mut() };
        let dims = [2];
        call(|| unsafe {
            mlxs_cpu_op(
                &mut out,
                c"Strides".as_ptr(),
                inputs,
                [dims.as_ptr()].as_ptr(),
                [1].as_ptr(),
                [MLX_FLOAT32].as_ptr(),
                1,
                strides,
                null_mut(),
                None,
                strided,
                no_closure(),
                stream(),
            )
        })
        .unwrap();
        unsafe { mlx_vector_array_free(inputs) };
        arrays(out)[0].values().unwrap()
    };
    assert_eq!(seen(0), [2.0, 1.0]);
    assert_eq!(seen(1), [1.0, 3.0]);
}

/// product + sum of the operation's outputs, a scalar to differentiate.
unsafe extern "C" fn loss(res: *mut mlx_vector_array, args: mlx_vector_array) -> c_int {
    unsafe {
        let n = mlx_vector_array_size(args);
        let x: Vec<Array> = (0..n).map(|i| Array::of(|r| mlx_vector_array_get(r, args, i)).unwrap()).collect();
        let fallback = mlx_closure_new_func(Some(plain));
        let y = op(&[&x[0], &x[1]], 1.0, fallback, stream()).unwrap();
        mlx_closure_free(fallback);
        let both = Array::of(|r| mlx_add(r, y[0].0, y[1].0, stream())).unwrap();
        let sum = Array::of(|r| mlx_sum(r, both.0, false, stream())).unwrap();
        *res = vector(&[&sum]);
    }
    0
}

fn derivative(argnums: &[i32]) -> Result<Vec<Vec<f32>>, String> {
    let (a, b) = (Array::new(&[1.0, 2.0], &[2]), Array::new(&[10.0, 20.0], &[2]));
    unsafe {
        let f = mlx_closure_new_func(Some(loss));
        let mut g = mlx_closure_value_and_grad_ { ctx: null_mut() };
        call(|| mlx_value_and_grad(&mut g, f, argnums.as_ptr(), argnums.len()))?;
        let inputs = vector(&[&a, &b]);
        let (mut values, mut grads) = (mlx_vector_array_new(), mlx_vector_array_new());
        let result = call(|| mlx_closure_value_and_grad_apply(&mut values, &mut grads, g, inputs));
        mlx_vector_array_free(inputs);
        mlx_closure_value_and_grad_free(g);
        mlx_closure_free(f);
        result?;
        assert_eq!(arrays(values)[0].values()?, [11.0 + 10.0 + 22.0 + 40.0]);
        arrays(grads).iter().map(|g| g.values()).collect()
    }
}

#[test]
fn derivatives_go_through_the_plain_form() {
    // d/da (a + b + a b) = 1 + b, d/db = 1 + a
    assert_eq!(derivative(&[0, 1]).unwrap(), [[11.0, 21.0], [2.0, 3.0]]);
    assert_eq!(derivative(&[1]).unwrap(), [[2.0, 3.0]]);
}

#[test]
fn a_directional_derivative_goes_through_the_plain_form() {
    let (a, b) = (Array::new(&[1.0, 2.0], &[2]), Array::new(&[10.0, 20.0], &[2]));
    let (da, db) = (Array::new(&[1.0, 0.0], &[2]), Array::new(&[0.0, 1.0], &[2]));
    unsafe {
        let f = mlx_closure_new_func(Some(loss));
        let (primals, tangents) = (vector(&[&a, &b]), vector(&[&da, &db]));
        let (mut values, mut slopes) = (mlx_vector_array_new(), mlx_vector_array_new());
        call(|| mlx_jvp(&mut values, &mut slopes, f, primals, tangents)).unwrap();
        for v in [primals, tangents, values] {
            mlx_vector_array_free(v);
        }
        mlx_closure_free(f);
        // (1 + b0) * 1 + (1 + a1) * 1
        assert_eq!(arrays(slopes)[0].values().unwrap(), [11.0 + 3.0]);
    }
}

/// The operation itself, with its plain form.
unsafe extern "C" fn both(res: *mut mlx_vector_array, args: mlx_vector_array) -> c_int {
    unsafe {
        let n = mlx_vector_array_size(args);
        let x: Vec<Array> = (0..n).map(|i| Array::of(|r| mlx_vector_array_get(r, args, i)).unwrap()).collect();
        let fallback = mlx_closure_new_func(Some(plain));
        let y = op(&[&x[0], &x[1]], 1.0, fallback, stream()).unwrap();
        mlx_closure_free(fallback);
        *res = vector(&[&y[0], &y[1]]);
    }
    0
}

#[test]
fn vmap_goes_through_the_plain_form() {
    let a = Array::new(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
    let b = Array::new(&[10.0, 20.0], &[2]);
    unsafe {
        let f = mlx_closure_new_func(Some(both));
        let inputs = vector(&[&a, &b]);
        let axes = [0, -1];
        let (mut traced_in, mut traced_out) = (mlx_vector_array_new(), mlx_vector_array_new());
        call(|| mlx_detail_vmap_trace(&mut traced_in, &mut traced_out, f, inputs, axes.as_ptr(), 2)).unwrap();
        let mut out = mlx_vector_array_new();
        call(|| mlx_detail_vmap_replace(&mut out, inputs, traced_in, traced_out, axes.as_ptr(), 2, [0, 0].as_ptr(), 2))
            .unwrap();
        for v in [inputs, traced_in, traced_out] {
            mlx_vector_array_free(v);
        }
        mlx_closure_free(f);
        let y = arrays(out);
        assert_eq!(y[0].values().unwrap(), [11.0, 22.0, 13.0, 24.0]);
        assert_eq!(y[1].values().unwrap(), [10.0, 40.0, 30.0, 80.0]);
    }
}

#[test]
fn a_compiled_function_keeps_the_kernel_and_can_change_its_shapes() {
    for shapeless in [false, true] {
        unsafe {
            let f = mlx_closure_new_func(Some(both));
            let mut g = mlx_closure_ { ctx: null_mut() };
            call(|| mlx_compile(&mut g, f, shapeless)).unwrap();
            for len in [2, 3] {
                let a = Array::new(&[1.0, 2.0, 3.0][..len], &[len as i32]);
                let b = Array::new(&[10.0, 20.0, 30.0][..len], &[len as i32]);
                let inputs = vector(&[&a, &b]);
                let mut out = mlx_vector_array_new();
                call(|| mlx_closure_apply(&mut out, g, inputs)).unwrap();
                mlx_vector_array_free(inputs);
                let y = arrays(out);
                assert_eq!(text(|r| mlxs_array_primitive_name(r, y[0].0)).unwrap(), "SumAndProduct");
                assert_eq!(y[1].values().unwrap(), [10.0, 40.0, 90.0][..len]);
            }
            mlx_closure_free(f);
            mlx_closure_free(g);
        }
    }
}

#[test]
fn without_a_plain_form_a_derivative_is_an_error() {
    unsafe extern "C" fn bare(res: *mut mlx_vector_array, args: mlx_vector_array) -> c_int {
        unsafe {
            let n = mlx_vector_array_size(args);
            let x: Vec<Array> = (0..n).map(|i| Array::of(|r| mlx_vector_array_get(r, args, i)).unwrap()).collect();
            let y = op(&[&x[0], &x[0]], 1.0, no_closure(), stream()).unwrap();
            *res = vector(&[&y[0]]);
        }
        0
    }
    let a = Array(unsafe { mlx_array_new_float32(2.0) });
    unsafe {
        let f = mlx_closure_new_func(Some(bare));
        let mut g = mlx_closure_value_and_grad_ { ctx: null_mut() };
        call(|| mlx_value_and_grad(&mut g, f, [0].as_ptr(), 1)).unwrap();
        let inputs = vector(&[&a]);
        let (mut values, mut grads) = (mlx_vector_array_new(), mlx_vector_array_new());
        let e = call(|| mlx_closure_value_and_grad_apply(&mut values, &mut grads, g, inputs)).unwrap_err();
        assert!(e.contains("[SumAndProduct] has no plain form"), "{e}");
        for v in [inputs, values, grads] {
            mlx_vector_array_free(v);
        }
        mlx_closure_value_and_grad_free(g);
        mlx_closure_free(f);
    }
}

#[test]
fn a_dtype_that_is_none_is_an_error_and_the_payload_is_dropped() {
    let x = Array::new(&[1.0], &[1]);
    let inputs = vector(&[&x]);
    let mut out = mlx_vector_array_ { ctx: null_mut() };
    let dims = [1];
    static GONE: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn gone(_: *mut c_void) {
        GONE.fetch_add(1, Ordering::SeqCst);
    }
    let e = call(|| unsafe {
        mlxs_cpu_op(
            &mut out,
            c"Refuses".as_ptr(),
            inputs,
            [dims.as_ptr()].as_ptr(),
            [1].as_ptr(),
            [99].as_ptr(),
            1,
            refuses,
            (&raw const dims).cast_mut().cast(),
            Some(gone),
            0,
            no_closure(),
            stream(),
        )
    })
    .unwrap_err();
    unsafe { mlx_vector_array_free(inputs) };
    assert!(e.contains("99"), "{e}");
    assert_eq!(GONE.load(Ordering::SeqCst), 1);
}
