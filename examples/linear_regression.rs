//! Linear regression by gradient descent (MLX's `linear_regression.py`).

use mlx::{self as mx, Array, Dtype};

pub fn main() -> anyhow::Result<()> {
    let (features, examples, iters, lr) = (100, 1_000, 200, 0.1);
    mx::random::seed(0);
    let normal = |shape: &[i32]| mx::random::normal(shape, Dtype::Float32, 0.0, 1.0, None);

    let w_star = normal(&[features]);
    let x = normal(&[examples, features]);
    let y = x.matmul(&w_star) + normal(&[examples]) * 1e-2;

    let loss = |w: &Array| (x.matmul(w) - &y).square().mean(()) * 0.5;
    let grad = mx::grad(loss);

    let mut w = normal(&[features]) * 1e-2;
    for _ in 0..iters {
        w = &w - grad(&w) * lr;
        w.eval()?;
    }

    let error = (&w - &w_star).square().sum(()).sqrt().item::<f32>()?;
    println!("loss {:.5}, |w - w*| = {error:.5}", loss(&w).item::<f32>()?);
    anyhow::ensure!(error < 0.05, "not converged");
    Ok(())
}
