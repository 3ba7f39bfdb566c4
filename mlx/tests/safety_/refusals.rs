//! Operands that an op cannot take: a panic with the op's name and the shapes, which `catch` turns into an error.

use crate::refused;
use mlx::{
    self as mx, Array, Conv, ConvTranspose, Device, Dtype, Error, Quant, QuantMode, Stream, array, fast, linalg,
};

fn f32(shape: &[i32]) -> Array {
    mx::ones(shape, Dtype::Float32)
}

#[test]
fn wrong_shapes_name_the_op_and_the_shapes() {
    let cases: Vec<(&str, &str, Box<dyn Fn() -> Array>)> = vec![
        ("add", "[2, 3]", Box::new(|| f32(&[2, 3]) + f32(&[4]))),
        ("matmul", "[5, 6]", Box::new(|| f32(&[2, 3]).matmul(&f32(&[5, 6])))),
        ("reshape", "[2, 3]", Box::new(|| f32(&[2, 3]).reshape([4, -1]))),
        ("reshape", "[-2, -2]", Box::new(|| f32(&[2, 3]).reshape([-2, -2]))),
        ("broadcast_to", "[-1, 3]", Box::new(|| mx::broadcast_to(&f32(&[3]), [-1, 3]))),
        ("zeros", "[-1, -4]", Box::new(|| mx::zeros([-1, -4], Dtype::Float32))),
        ("pad", "(-1, 0)", Box::new(|| mx::pad(&f32(&[2]), &[(-1, 0)], 0, mx::PadMode::Constant))),
        ("sum", "axis 5", Box::new(|| f32(&[2]).sum(5))),
        ("arange", "arange", Box::new(|| mx::arange(0, 5, 0, None))),
        ("topk", "topk", Box::new(|| mx::topk(&f32(&[3]), 9, -1))),
        ("linspace", "[-3]", Box::new(|| mx::linspace(0.0, 1.0, -3, Dtype::Float32))),
        ("concatenate", "[3, 3]", Box::new(|| mx::concatenate(&[f32(&[2, 2]), f32(&[3, 3])], 0))),
        ("stack", "stack", Box::new(|| mx::stack::<Array>(&[], 0))),
        ("einsum", "einsum", Box::new(|| mx::einsum("ij,%n%s->i", &[f32(&[2, 2]), f32(&[2, 2])]))),
        ("einsum", "einsum", Box::new(|| mx::einsum::<Array>("", &[]))),
        ("cross", "cross", Box::new(|| linalg::cross(&f32(&[4]), &f32(&[4]), -1))),
        ("inv", "[2, 3]", Box::new(|| linalg::inv(&f32(&[2, 3])))),
        ("scatter", "integers", Box::new(|| mx::scatter(&f32(&[2]), &[&array!([true])], &f32(&[1, 1]), &[0]))),
        ("take", "integers", Box::new(|| mx::take(&f32(&[2]), &array!([0.5]), 0))),
        ("take", "empty", Box::new(|| mx::take(&f32(&[0, 2]), &array!([0]), 0))),
        ("index", "step", Box::new(|| f32(&[3]).i(mx::step(.., 0)))),
        ("add", "does not fit", Box::new(|| array!([1u8]) + 300)),
        ("max", "size 0", Box::new(|| f32(&[0]).max(()))),
    ];
    for (op, text, f) in cases {
        let e = refused(&*f);
        assert!(e.contains(op), "{e}");
        assert!(e.contains(text), "{op}: {e}");
    }
    assert_eq!((f32(&[2]) + 1.0).to_vec::<f32>().unwrap(), [2.0, 2.0], "nothing is left behind");
}

#[test]
fn conv_options_that_divide_by_zero_are_refused() {
    let (x, w) = (f32(&[1, 8, 4]), f32(&[4, 3, 4]));
    for o in [
        Conv { groups: 0, ..Conv::default() },
        Conv { groups: -1, ..Conv::default() },
        Conv { groups: 3, ..Conv::default() },
        Conv { stride: [0], ..Conv::default() },
        Conv { dilation: [0], ..Conv::default() },
        Conv { padding: [-1], ..Conv::default() },
        Conv { padding: [i32::MAX], ..Conv::default() },
    ] {
        assert!(refused(|| mx::conv1d(&x, &w, o)).contains("[1, 8, 4]"), "{o:?}");
    }
    assert!(
        refused(|| mx::conv_transpose1d(&x, &w, ConvTranspose { groups: 0, ..Default::default() })).contains("conv")
    );
    assert!(refused(|| mx::conv1d(&x, &f32(&[4, 0, 4]), Conv::default())).contains("empty"));
    assert!(refused(|| mx::conv_general(&f32(&[2]), &f32(&[2]), Default::default())).contains("conv_general"));
}

#[test]
fn quantisation_takes_known_combinations_only() {
    let w = f32(&[4, 64]);
    for q in [
        Quant::affine(0, 4),
        Quant::affine(64, 0),
        Quant::affine(48, 4),
        Quant::affine(64, 7),
        Quant { bits: 8, ..Quant::of_mode(QuantMode::Mxfp4) },
    ] {
        assert!(refused(|| mx::quantize(&w, q)).contains("not supported"), "{q:?}");
    }
    let q = Quant::affine(64, 4);
    let (p, s, b) = mx::quantize(&w, q);
    let x = f32(&[1, 64]);
    let wrong = Quant::affine(32, 4);
    assert!(refused(|| mx::quantized_matmul(&x, &p, &s, b.as_ref(), true, wrong)).contains("do not belong"));
    assert!(refused(|| mx::quantized_matmul(&x, &p, &s, None, true, q)).contains("do not belong"));
    assert!(refused(|| mx::dequantize(&p, &s.i(0), b.as_ref(), q, None)).contains("do not belong"));
    assert!(refused(|| mx::qqmm(&x, &w, Default::default(), q)).contains("affine"));
    assert!(refused(|| mx::gather_qqmm(&x, &w, Default::default(), Default::default(), q)).contains("affine"));
}

#[test]
fn integer_division_never_traps() {
    assert!(refused(|| array!([1, 2]).floor_divide(0)).contains("division by zero"));
    assert!(refused(|| array!([1, 2]) % 0).contains("division by zero"));
    assert!(refused(|| mx::divmod(array!([1u8]), 0)).contains("division by zero"));
    let (a, b) = (array!([7, -7, 5]), array!([2, 2, 0]));
    assert_eq!(a.floor_divide(&b).to_vec::<i32>().unwrap(), [3, -3, 5], "zero counts as one");
    assert_eq!((&a % &b).to_vec::<i32>().unwrap(), [1, 1, 0]);
    let (q, r) = mx::divmod(&a, &b);
    assert_eq!((q.to_vec::<i32>().unwrap()[2], r.to_vec::<i32>().unwrap()[2]), (5, 0));
    let least = Array::from([i32::MIN, 6]);
    assert_eq!(least.floor_divide(array!([-1, -1])).to_vec::<i32>().unwrap(), [i32::MIN, -6], "wraps");
    assert_eq!(least.floor_divide(-1).to_vec::<i32>().unwrap(), [i32::MIN, -6]);
    assert_eq!((Array::from([i64::MIN]) % Array::from([-1i64])).to_vec::<i64>().unwrap(), [0]);
    assert!((array!([true]) % array!([false])).eval().is_ok(), "bools divide, too");
    assert!((array!([1.0]) % 0.0).item::<f32>().unwrap().is_nan(), "floats are not guarded");
}

#[test]
fn devices_that_are_not_there_are_errors() {
    assert!(matches!(Stream::new(Device::Gpu(99)), Err(Error::Unavailable(_))));
    assert!(!Device::Gpu(99).is_available());
    assert!(Device::Gpu(99).info().is_err());
    if !mx::metal_is_available() && !mx::cuda_is_available() {
        assert!(mx::set_default_device(Device::Gpu(0)).is_err());
        assert!(refused(|| mx::with_device(Device::Gpu(0), || ())).contains("gpu"));
        assert!(mx::metal::start_capture("x.gputrace").is_err());
    }
}

#[test]
fn data_is_read_in_its_own_form_only() {
    assert!(array!([1.5]).item::<i32>().is_err());
    assert!(array!([true]).item::<f64>().is_ok_and(|v| v == 1.0), "converted, not reinterpreted");
    assert!(array!([1, 2]).item::<i32>().is_err());
    let bytes = [2u8, 0, 255, 1];
    let b = Array::try_from_bytes(&bytes, &[4], Dtype::Bool).unwrap();
    assert_eq!(b.to_bytes().unwrap(), [1, 0, 1, 1], "bool bytes are 0 or 1");
    assert_eq!(Array::from(bytes).view(Dtype::Bool).to_bytes().unwrap(), [1, 0, 1, 1]);
    let odd = Array::from(vec![0u8; 9]).i(1..9).view(Dtype::Float32);
    assert_eq!(odd.to_vec::<f32>().unwrap(), [0.0, 0.0], "a misaligned view is read byte by byte");
    let wide = mx::broadcast_to(&array!([1, 2]), [3, 2]);
    assert_eq!(wide.to_vec::<i32>().unwrap(), [1, 2, 1, 2, 1, 2]);
    let back = mx::arange(0, 6, 1, None).reshape([2, 3]).i((.., mx::step(.., -1)));
    assert_eq!(back.to_vec::<i32>().unwrap(), [2, 1, 0, 5, 4, 3]);
    assert_eq!(mx::zeros([0, 3], Dtype::Float32).to_vec::<f32>().unwrap(), [0.0; 0]);
    for (shape, n) in [(&[-1, -1][..], 1), (&[-1, -4], 4), (&[65536, 65536], 4), (&[i32::MAX, i32::MAX, 4], 8)] {
        assert!(Array::try_from_bytes(&vec![0; n], shape, Dtype::Uint8).is_err(), "{shape:?}");
    }
}

#[test]
fn values_inside_of_a_trace_cannot_be_read() {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let inside = seen.clone();
    let f = mx::compile(move |x: &Array| {
        let y = x * 2.0;
        inside.borrow_mut().push(y.to_vec::<f32>().is_err() && y.eval().is_err());
        y
    });
    assert_eq!(f.call(&array!([1.0])).item::<f32>().unwrap(), 2.0);
    let per_row = mx::vmap(|x: &Array| {
        let y = x + 1.0;
        seen.borrow_mut().push(y.item::<f32>().is_err());
        y
    });
    assert_eq!(per_row(&array!([1.0, 2.0])).to_vec::<f32>().unwrap(), [2.0, 3.0]);
    assert_eq!(*seen.borrow(), [true, true]);
    // under grad, values are known
    let g = mx::grad(|x: &Array| if x.item::<f32>().unwrap() > 0.0 { x * 3.0 } else { x * 5.0 });
    assert_eq!(g(&array!(2.0)).item::<f32>().unwrap(), 3.0);
}

#[test]
fn norms_and_attention_check_their_operands() {
    let x = f32(&[2, 4]);
    assert!(refused(|| fast::rms_norm(&x, Some(&f32(&[3])), 1e-5)).contains("[2, 4]"));
    assert!(refused(|| fast::layer_norm(&x, Some(&f32(&[4, 4])), None, 1e-5)).contains("[2, 4]"));
    let (q, k) = (f32(&[1, 3, 2, 8]), f32(&[1, 2, 2, 8]));
    let o = fast::Sdpa { scale: 1.0, ..Default::default() };
    assert!(refused(|| fast::scaled_dot_product_attention(&q, &k, &k, o)).contains("[1, 3, 2, 8]"));
    assert!(refused(|| fast::scaled_dot_product_attention(&x, &x, &x, o)).contains("[2, 4]"));
    let rope = |dims| fast::rope(&k, fast::Rope { dims, ..Default::default() }, 0);
    assert!(refused(|| rope(-2)).contains("rope"));
    assert!(refused(|| rope(99)).contains("rope"));
    assert!(refused(|| fast::cross_entropy(&x, &f32(&[2]))).contains("integers"));
}

#[test]
fn a_matrix_that_is_not_positive_definite_has_no_cholesky_factor() {
    let bad = array!([[1.0, 2.0], [2.0, 1.0]]);
    assert!(linalg::cholesky(&bad, false).to_vec::<f32>().unwrap().iter().all(|v| v.is_nan()));
    let good = array!([[4.0, 2.0], [2.0, 5.0]]);
    assert_eq!(linalg::cholesky(&good, false).to_vec::<f32>().unwrap(), [2.0, 0.0, 1.0, 2.0]);
    let both = linalg::cholesky(&mx::stack(&[good, bad], 0), true).to_vec::<f32>().unwrap();
    assert!(both[..4] == [2.0, 1.0, 0.0, 2.0] && both[4..].iter().all(|v| v.is_nan()), "each for itself: {both:?}");
}
