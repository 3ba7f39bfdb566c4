//! Arrays, gradients and a few steps of descent: `cargo run --release -p mlx-rs-workspace --example quickstart`.

use mlx::{self as mx, Array, Dtype};

fn main() -> anyhow::Result<()> {
    // 100 points of y = 3 x - 2 with some noise
    mx::random::seed(1);
    let x = mx::linspace(-1.0, 1.0, 100, Dtype::Float32);
    let noise = mx::random::normal([100], Dtype::Float32, 0.0, 0.1, None);
    let y = &x * 3.0 - 2.0 + noise;

    let loss = move |p: &[Array]| vec![(&x * &p[0] + &p[1] - &y).square().mean(())];

    let mut p = vec![Array::from(0.0f32), Array::from(0.0f32)];
    for i in 0..200 {
        let (values, grads) = mx::value_and_grad_argnums(&loss, &p, &[0, 1]);
        // nothing has been computed yet: eval does
        p = p.iter().zip(&grads).map(|(p, g)| p - g * 0.1).collect();
        mx::eval(&p)?;
        if i % 50 == 0 {
            println!("step {i:3}: loss {:.4}", values[0].item::<f32>()?);
        }
    }
    println!("slope {:.2}, intercept {:.2}, on {}", p[0].item::<f32>()?, p[1].item::<f32>()?, mx::default_device());
    Ok(())
}
