//! A multi-layer perceptron that tells ten noisy patterns apart (MLX's `mnist/main.py`, on synthetic digits).

use mlx::nn::{self, Linear, Module, losses};
use mlx::optim::{Optimizer, SGD};
use mlx::{self as mx, Array, Dtype, random};

#[derive(Module)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    fn new(dims: &[i32]) -> Self {
        Mlp { layers: dims.windows(2).map(|d| Linear::init(d[0], d[1], true)).collect() }
    }

    fn forward(&self, x: &Array) -> Array {
        let (last, hidden) = self.layers.split_last().expect("at least one layer");
        last.forward(&hidden.iter().fold(x.clone(), |x, layer| nn::relu(&layer.forward(&x))))
    }
}

fn loss(model: &Mlp, (x, y): &(Array, Array)) -> Array {
    losses::cross_entropy(&model.forward(x), y).mean(())
}

pub fn main() -> anyhow::Result<()> {
    random::seed(0);
    let patterns = random::normal([10, 64], Dtype::Float32, 0.0, 1.0, None);
    let batch = |n: i32| {
        let y = random::randint(0, 10, [n], Dtype::Int32, None);
        let x = patterns.take(&y, 0) + random::normal([n, 64], Dtype::Float32, 0.0, 1.0, None);
        (x, y)
    };

    let mut model = Mlp::new(&[64, 32, 32, 10]);
    let mut optimizer = SGD { momentum: 0.9, ..SGD::new(0.1) };
    let step = nn::value_and_grad(loss);

    for i in 0..100 {
        let (value, grads) = step(&mut model, &batch(64));
        optimizer.update(&mut model, &grads);
        mx::eval(optimizer.state().values())?;
        if i % 25 == 0 {
            println!("step {i:3}: loss {:.4}", value.item::<f32>()?);
        }
    }

    let (x, y) = batch(1000);
    let accuracy = mx::argmax(&model.forward(&x), -1).eq(&y).mean(()).item::<f32>()?;
    println!("test accuracy {accuracy:.3}");
    anyhow::ensure!(accuracy > 0.95, "not converged");
    Ok(())
}
