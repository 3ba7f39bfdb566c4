//! A training step compiled as a whole: model, optimizer and random state go in and out.

use mlx::nn::{self, Dropout, Linear, Module, losses};
use mlx::optim::{Adam, Optimizer, cosine_decay};
use mlx::{self as mx, Array, Dtype, RandomState, State, random};
use std::time::Instant;

#[derive(Module)]
struct Model {
    up: Linear,
    dropout: Dropout,
    down: Linear,
}

impl Model {
    fn forward(&self, x: &Array) -> Array {
        self.down.forward(&self.dropout.forward(&nn::silu(&self.up.forward(x))))
    }
}

pub fn main() -> anyhow::Result<()> {
    random::seed(0);
    let x = random::normal([64, 16], Dtype::Float32, 0.0, 1.0, None);
    let y = x.square().sum_keepdims(-1);

    let loss = |m: &Model, (x, y): &(Array, Array)| losses::mse_loss(&m.forward(x), y, losses::Reduction::Mean);
    let train = move |(model, opt, _): &mut (Model, Adam, RandomState), batch: &(Array, Array)| {
        let (value, grads) = nn::value_and_grad(loss)(model, batch);
        opt.update(model, &grads);
        value
    };

    let model = Model { up: Linear::init(16, 64, true), dropout: Dropout::new(0.05), down: Linear::init(64, 1, true) };
    let mut state = (model, Adam::new(cosine_decay(3e-2, 150, 0.0)), RandomState);
    let batch = (x, y);
    let step = mx::compile_with_state(train);

    let (mut first, mut last) = (None, 0.0);
    let start = Instant::now();
    for _ in 0..150 {
        let value = step.call(&mut state, &batch);
        let mut arrays = vec![value.clone()];
        state.arrays(&mut |a| arrays.push(a.clone()));
        mx::eval(&arrays)?;
        last = value.item::<f32>()?;
        first.get_or_insert(last);
    }
    let first = first.unwrap_or(last);
    println!("loss {first:.2} -> {last:.2}, {:.2} ms a step", start.elapsed().as_secs_f64() * 1000.0 / 150.0);
    anyhow::ensure!(last < first / 4.0, "not converged");
    Ok(())
}
