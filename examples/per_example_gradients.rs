//! Gradients of every example by itself, with vmap: clipped one by one as differentially private training does.

use mlx::{self as mx, Array, Dtype};

pub fn main() -> anyhow::Result<()> {
    mx::random::seed(0);
    let x = mx::random::normal([8, 3], Dtype::Float32, 0.0, 1.0, None);
    let y = mx::random::normal([8], Dtype::Float32, 0.0, 1.0, None);
    let w = mx::array!([0.5, -1.0, 2.0]);

    // the loss of one example: x [3], y []
    let loss = |w: &Array, x: &Array, y: &Array| ((w * x).sum(()) - y).square();
    let per_example = mx::vmap(|(x, y): &(Array, Array)| mx::grad(|w: &Array| loss(w, x, y))(&w));
    let grads = per_example(&(x.clone(), y.clone()));
    println!("gradients of {} examples: {:?}", x.dim(0), grads.shape());

    // each at most of norm one, then averaged
    let norms = grads.square().sum_keepdims(-1).sqrt();
    let clipped = (&grads / norms.maximum(1.0)).mean(0);
    println!("clipped mean {clipped}");

    // the mean of all is the gradient of the mean loss
    let whole = mx::grad(|w: &Array| (x.matmul(w) - &y).square().mean(()))(&w);
    let same = mx::allclose(grads.mean(0), whole, 1e-4, 1e-5, false).item::<bool>()?;
    anyhow::ensure!(same, "per-example gradients do not add up");
    Ok(())
}
