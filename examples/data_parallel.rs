//! Data-parallel training: starts two processes of itself, each with its half of every batch
//! (`mlx.launch -n 2 script.py`).

use mlx::nn::{self, Linear, ModuleExt, average_gradients, losses};
use mlx::optim::{Optimizer, SGD};
use mlx::{self as mx, Array, Dtype, distributed, random};
use std::process::Command;

fn main() -> anyhow::Result<()> {
    if std::env::var_os("MLX_RANK").is_none() {
        let exe = std::env::current_exe()?;
        let ended = distributed::launch(2, |_| Command::new(&exe))?;
        anyhow::ensure!(ended.iter().all(|s| s.success()), "a process failed");
        return Ok(());
    }

    let group = distributed::init(true, distributed::Backend::Ring)?;
    random::seed(0);
    let mut model = Linear::init(8, 1, true);
    let w_star = random::normal([8, 1], Dtype::Float32, 0.0, 1.0, None);

    // from here on each process draws its own data
    random::seed(1 + group.rank() as u64);
    let mut optimizer = SGD::new(0.1);
    let step = nn::value_and_grad(|m: &Linear, (x, y): &(Array, Array)| {
        losses::mse_loss(&m.forward(x), y, losses::Reduction::Mean)
    });
    let mut last = 0.0;
    for _ in 0..100 {
        let x = random::normal([32, 8], Dtype::Float32, 0.0, 1.0, None);
        let y = x.matmul(&w_star);
        let (loss, grads) = step(&mut model, &(x, y));
        optimizer.update(&mut model, &average_gradients(&grads, &group, 32 << 20));
        let mean = distributed::all_sum(&loss, Some(&group)) / group.size();
        mx::eval(model.parameters().iter().map(|(_, a)| a).chain([&mean]))?;
        last = mean.item::<f32>()?;
    }
    if group.rank() == 0 {
        println!("{} processes, loss {last:.6}", group.size());
    }
    anyhow::ensure!(last < 1e-3, "not converged");
    Ok(())
}
