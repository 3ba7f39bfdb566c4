use mlx::fast::{KernelSource, Launch, Template, cuda_kernel, metal_kernel};
use mlx::{self as mx, Dtype, Error};

#[test]
fn kernels_say_what_is_missing() {
    let source =
        KernelSource { name: "k", inputs: &["x"], outputs: &["y"], source: "y[0] = x[0];", ..Default::default() };
    if !mx::metal_is_available() {
        assert!(matches!(metal_kernel(source), Err(Error::Unavailable(m)) if m.contains("Metal")));
    }
    if !mx::cuda_is_available() {
        assert!(matches!(cuda_kernel(source), Err(Error::Unavailable(m)) if m.contains("CUDA")));
    }
    let bad = metal_kernel(KernelSource { name: "a b", ..source }).unwrap_err().to_string();
    assert!(bad.contains("\"a b\""), "{bad}");
    assert!(cuda_kernel(KernelSource { inputs: &["x;y"], ..source }).is_err());
    assert!(cuda_kernel(KernelSource { outputs: &[], ..source }).is_err());
}

#[test]
fn a_cuda_kernel_computes() {
    if !mx::cuda_is_available() {
        return;
    }
    let axpy = cuda_kernel(KernelSource {
        name: "axpy",
        inputs: &["x", "y"],
        outputs: &["z"],
        source: "auto i = cooperative_groups::this_grid().thread_rank(); if (i < x_shape[0]) z[i] = x[i] * T(A) + y[i];",
        ..Default::default()
    })
    .unwrap();
    let x = mx::arange(0, 70, 1, None).astype(Dtype::Float32);
    let launch = Launch {
        outputs: vec![(x.shape().into(), Dtype::Float32)],
        grid: [96, 1, 1],
        threadgroup: [32, 1, 1],
        template: &[("T", Template::Dtype(Dtype::Float32)), ("A", Template::Int(3))],
        ..Default::default()
    };
    // SAFETY: threads beyond the 70 elements do nothing
    let z = unsafe { axpy.call(&[&x, &mx::ones_like(&x)], &launch) };
    let want: Vec<f32> = (0..70).map(|i| 3.0 * i as f32 + 1.0).collect();
    assert_eq!(z[0].to_vec::<f32>().unwrap(), want);
    // SAFETY: refused before anything runs
    assert!(mx::catch(|| unsafe { axpy.call(&[&x], &launch) }).is_err());
}
