//! Logistic regression by gradient descent (MLX's `logistic_regression.py`).

use mlx::{self as mx, Array, Dtype};

pub fn main() -> anyhow::Result<()> {
    let (features, examples, iters, lr) = (20, 1_000, 200, 1.0);
    mx::random::seed(0);
    let normal = |shape: &[i32]| mx::random::normal(shape, Dtype::Float32, 0.0, 1.0, None);

    let w_star = normal(&[features]);
    let x = normal(&[examples, features]);
    let y = x.matmul(&w_star).gt(0);

    let loss = |w: &Array| {
        let logits = x.matmul(w);
        (mx::logaddexp(0.0, &logits) - &y * logits).mean(())
    };
    let grad = mx::grad(loss);

    let mut w = normal(&[features]) * 1e-2;
    for _ in 0..iters {
        w = &w - grad(&w) * lr;
        w.eval()?;
    }

    let accuracy = x.matmul(&w).gt(0).eq(&y).mean(()).item::<f32>()?;
    println!("loss {:.4}, accuracy {accuracy:.3}", loss(&w).item::<f32>()?);
    anyhow::ensure!(accuracy > 0.95, "not converged");
    Ok(())
}
