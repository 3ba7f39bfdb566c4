//! A kernel of one's own with its derivative: Metal or CUDA source where there is a GPU, plain ops elsewhere.

use mlx::fast::{Kernel, KernelSource, Launch, cuda_kernel, metal_kernel};
use mlx::{self as mx, Array, CustomFunction};

/// exp(-x^2), element by element.
fn kernel() -> mx::Result<Option<Kernel>> {
    let names = KernelSource { name: "bump", inputs: &["x"], outputs: &["y"], ..KernelSource::default() };
    if mx::metal_is_available() {
        let source = "uint i = thread_position_in_grid.x; y[i] = metal::exp(-x[i] * x[i]);";
        return metal_kernel(KernelSource { source, ..names }).map(Some);
    }
    if mx::cuda_is_available() {
        let source =
            "auto i = cooperative_groups::this_grid().thread_rank(); if (i < y_size) y[i] = expf(-x[i] * x[i]);";
        let source = source.replace("y_size", "x_shape[0]");
        return cuda_kernel(KernelSource { source: &source, ..names }).map(Some);
    }
    Ok(None)
}

pub fn main() -> anyhow::Result<()> {
    let kernel = kernel()?;
    println!("{}", if kernel.is_some() { "running the kernel" } else { "no GPU: running the plain ops" });
    let bump = CustomFunction::new(move |x: &Array| match &kernel {
        Some(k) => {
            let launch = Launch {
                outputs: vec![(x.shape().into(), x.dtype())],
                grid: [x.size() as i32, 1, 1],
                threadgroup: [256.min(x.size() as i32), 1, 1],
                ..Launch::default()
            };
            // SAFETY: one thread for each element, which reads and writes only that
            unsafe { k.call(&[x], &launch) }.remove(0)
        }
        None => (-x.square()).exp(),
    })
    .vjp(|x, cotangent, y| cotangent * y * x * -2.0);

    let x = mx::array!([0.0, 0.5, 1.0, -2.0]);
    let y = bump.call(&x);
    let slope = mx::grad(|x: &Array| bump.call(x).sum(()))(&x);
    println!("f  {y}\nf' {slope}");
    let expected = (-x.square()).exp() * &x * -2.0;
    anyhow::ensure!(mx::allclose(slope, expected, 1e-4, 1e-6, false).item::<bool>()?, "wrong derivative");
    Ok(())
}
