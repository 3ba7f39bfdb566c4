//! Names that the recorded calls do not reach: expected values from Python's MLX 0.32.2 or by hand.

use mlx::{self as mx, Array, Device, DeviceFact, Dtype, array, memory, random};

#[test]
fn einsum_path_plans_as_python_does() {
    let shapes: [&[i32]; 5] = [&[6, 2], &[7, 3], &[2, 3, 4, 5], &[8, 4], &[9, 5]];
    let arrays: Vec<Array> = shapes.iter().map(|s| mx::zeros(*s, Dtype::Float32)).collect();
    let path = mx::einsum_path("ea,fb,abcd,gc,hd->efgh", &arrays);
    assert_eq!(path.steps, [vec![2, 4], vec![2, 3], vec![1, 2], vec![0, 1]]);
    assert_eq!((path.naive_flops, path.flops), (1_814_400, 23_760));
    assert_eq!((path.naive_scaling, path.scaling), (8, 5));
    let (a, b, c) =
        (mx::zeros([2, 3], Dtype::Float32), mx::zeros([3, 4], Dtype::Float32), mx::zeros([4, 5], Dtype::Float32));
    let path = mx::einsum_path("ab,bc,cd->ad", &[&a, &b, &c]);
    assert_eq!(path.steps, [vec![1, 2], vec![0, 1]]);
    assert_eq!(
        path.to_string(),
        "  Complete contraction:  ab,bc,cd->ad\n         Naive scaling:  4\n     Optimized scaling:  3\n      \
         Naive FLOP count:  360\n  Optimized FLOP count:  180\n"
    );
    assert_eq!(mx::einsum_path("ij", &[&a]).steps, [vec![0]]);
    assert_eq!(mx::einsum_path("...a,a...->...", &[&a, &mx::zeros([3, 2], Dtype::Float32)]).steps.len(), 1);
    assert!(mx::catch(|| mx::einsum_path("ab,bc", &[&a, &a])).is_err());
    assert!(mx::catch(|| mx::einsum_path("ab", &[&a, &b])).is_err());
}

#[test]
fn dtype_limits_are_pythons() {
    let half = mx::finfo(Dtype::Float16).unwrap();
    assert_eq!((half.bits, half.eps, half.max, half.min), (16, 0.0009765625, 65504.0, -65504.0));
    assert_eq!(half.smallest_normal, 6.103515625e-05);
    let bf = mx::finfo(Dtype::Bfloat16).unwrap();
    assert_eq!((bf.eps, bf.max, bf.smallest_normal), (0.0078125, 3.3895313892515355e+38, 1.1754943508222875e-38));
    assert_eq!(mx::finfo(Dtype::Complex64).unwrap().dtype, Dtype::Float32);
    assert!(mx::finfo(Dtype::Int32).is_err());
    let i = mx::iinfo(Dtype::Int8).unwrap();
    assert_eq!((i.dtype, i.bits, i.min, i.max), (Dtype::Int8, 8, -128, 127));
    assert_eq!(mx::iinfo(Dtype::Uint64).unwrap().max, u64::MAX as i128);
    assert!(mx::iinfo(Dtype::Bool).is_err());
}

#[test]
fn second_names_are_the_same_functions() {
    let x = array!([1, 2]);
    assert_eq!(mx::bitwise_left_shift(&x, 3).to_vec::<i32>().unwrap(), [8, 16]);
    assert_eq!(mx::bitwise_right_shift(&x, 1).to_vec::<i32>().unwrap(), [0, 1]);
    assert_eq!(mx::empty([2, 3], Dtype::Int8).shape(), [2, 3]);
    assert_eq!(mx::empty_like(&x).dtype(), Dtype::Int32);
    assert_eq!((mx::PI, mx::E), (std::f64::consts::PI, std::f64::consts::E));
    assert!(mx::INF.is_infinite() && mx::NAN.is_nan() && (mx::EULER_GAMMA - 0.5772156649).abs() < 1e-9);
    assert_eq!(mx::permute_dims(&mx::zeros([2, 3], Dtype::Float32), [1, 0]).shape(), [3, 2]);
    assert_eq!(mx::view(&array!([1.0]), Dtype::Int32).item::<i32>().unwrap(), 0x3f80_0000);
}

#[test]
fn facts_of_arrays() {
    let x = mx::zeros([2, 3], Dtype::Float16);
    assert_eq!((x.ndim(), x.size(), x.itemsize(), x.nbytes()), (2, 6, 2, 12));
    assert_eq!((x.shape(), x.dtype(), Dtype::Float16.size()), (&[2, 3][..], Dtype::Float16, 2));
    let rows: Vec<i32> = mx::unstack(&array!([[1, 2], [3, 4]]), 0).iter().map(|r| r.sum(()).item().unwrap()).collect();
    assert_eq!(rows, [3, 7]);
    let n = mx::number_of_elements(&x, [0, 1], false, Dtype::Int32);
    assert_eq!(n.item::<i32>().unwrap(), 6);
}

#[test]
fn devices_and_memory_describe_themselves() {
    let cpu = Device::Cpu.info().unwrap();
    assert!(matches!(cpu.get("device_name").or(cpu.get("architecture")), Some(DeviceFact::Text(t)) if !t.is_empty()));
    assert!(Device::Cpu.is_available());
    assert_eq!(Device::gpu_count() > 0, mx::metal_is_available() || mx::cuda_is_available());
    assert_eq!(mx::default_stream().device(), mx::default_device());
    let before = memory::set_cache_limit(1 << 20);
    assert_eq!(memory::set_cache_limit(before), 1 << 20);
    let big = mx::ones([1 << 16], Dtype::Float32);
    big.eval().unwrap();
    assert!(memory::active_memory() >= 1 << 18 && memory::peak_memory() >= 1 << 18);
    memory::clear_cache();
    memory::reset_peak_memory();
    let _ = (memory::cache_memory(), memory::memory_limit());
}

#[test]
fn dependencies_are_computed_first() {
    let (a, b) = (array!([1.0]) + 1.0, array!([2.0]) * 3.0);
    let out = mx::depends(&[&a], &[&b]);
    assert_eq!(out[0].item::<f32>().unwrap(), 2.0);
    assert!(b.is_available());
}

#[test]
fn keys_carry_on_from_a_state() {
    random::seed(5);
    let first = random::uniform(0, 1, [2], Dtype::Float32, None).to_vec::<f32>().unwrap();
    let state = random::state();
    let next = random::uniform(0, 1, [2], Dtype::Float32, None).to_vec::<f32>().unwrap();
    random::set_state(state);
    assert_eq!(random::uniform(0, 1, [2], Dtype::Float32, None).to_vec::<f32>().unwrap(), next);
    assert_ne!(first, next);
    assert_eq!(random::bits([3], 1, Some(&random::key(0))).dtype(), Dtype::Uint8);
}

#[test]
fn gather_and_scatter_move_slices() {
    let x = mx::arange(0, 12, 1, None).reshape([4, 3]);
    let g = mx::gather(&x, &[&array!([2, -1])], &[0], [1, 2]);
    assert_eq!((g.shape(), g.to_vec::<i32>().unwrap()), (&[2, 1, 2][..], vec![6, 7, 9, 10]));
    let up = mx::full([2, 1, 3], 100, None);
    let s = mx::scatter_add(&x, &[&array!([0, 0])], &up, &[0]);
    assert_eq!(s.i(0).to_vec::<i32>().unwrap(), [200, 201, 202]);
    let m = mx::scatter_max(&x, &[&array!([1])], &mx::full([1, 1, 3], 4, None), &[0]);
    assert_eq!(m.i(1).to_vec::<i32>().unwrap(), [4, 4, 5]);
    let p = mx::scatter_prod(&x, &[&array!([1])], &mx::full([1, 1, 3], 2, None), &[0]);
    assert_eq!(p.i(1).to_vec::<i32>().unwrap(), [6, 8, 10]);
    let n = mx::scatter_min(&x, &[&array!([1])], &mx::full([1, 1, 3], 4, None), &[0]);
    assert_eq!(n.i(1).to_vec::<i32>().unwrap(), [3, 4, 4]);
}
