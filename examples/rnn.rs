//! A recurrent network that continues sine waves it has not seen.

use mlx::nn::{self, GRU, Linear, Module, losses};
use mlx::optim::{Adam, Optimizer};
use mlx::{self as mx, Array, Dtype, random};

#[derive(Module)]
struct Forecaster {
    rnn: GRU,
    out: Linear,
}

impl Forecaster {
    /// x: [B, L, 1] -> the next value after each position [B, L, 1]
    fn forward(&self, x: &Array) -> Array {
        self.out.forward(&self.rnn.forward(x, None))
    }
}

fn waves(n: i32, len: i32) -> (Array, Array) {
    let phase = random::uniform(0.0, std::f64::consts::TAU, [n, 1], Dtype::Float32, None);
    let speed = random::uniform(0.2, 0.5, [n, 1], Dtype::Float32, None);
    let t = mx::arange(0, len + 1, 1, Some(Dtype::Float32));
    let wave = (speed * t + phase).sin().expand_dims(-1);
    (wave.i((.., ..len)), wave.i((.., 1..)))
}

pub fn main() -> anyhow::Result<()> {
    random::seed(0);
    let mut model = Forecaster { rnn: GRU::init(1, 16, true), out: Linear::init(16, 1, true) };
    let mut optimizer = Adam::new(2e-2);
    let loss = |m: &Forecaster, (x, y): &(Array, Array)| losses::mse_loss(&m.forward(x), y, losses::Reduction::Mean);
    let step = nn::value_and_grad(loss);

    for i in 0..60 {
        let (value, grads) = step(&mut model, &waves(16, 20));
        optimizer.update(&mut model, &grads);
        mx::eval(optimizer.state().values())?;
        if i % 20 == 0 {
            println!("step {i:2}: loss {:.4}", value.item::<f32>()?);
        }
    }
    let test = loss(&model, &waves(64, 20)).item::<f32>()?;
    println!("test loss {test:.4}");
    anyhow::ensure!(test < 0.05, "not converged");
    Ok(())
}
