//! Timing training steps: LoRA with the defaults of a run, on random tokens.

use super::random_ids;
use crate::decoder::Decoder;
use crate::train::{self, Batch, FineTune, LoraConfig, Stepper};
use crate::{Error, Result};
use mlx::nn::ModuleExt;
use mlx::{Array, memory};
use std::rc::Rc;
use std::time::Instant;

/// What is timed.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct TrainOptions {
    pub batch_size: usize,
    /// Tokens of a row that are predicted.
    pub sequence_length: usize,
    /// Counted steps, after two that are not.
    pub num_steps: usize,
    /// Adapted layers, from the end; -1 is all.
    pub num_layers: i32,
    pub grad_checkpoint: bool,
    /// Whether the step is traced once and replayed.
    pub compile: bool,
}

/// Rates over all counted steps, the fastest one, and the highest memory of them.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TrainBenchmark {
    pub tokens_per_second: f64,
    pub best_tokens_per_second: f64,
    pub iterations_per_second: f64,
    pub peak_memory_gb: f64,
    /// The first step: tracing, and kernels that are compiled on first use.
    pub first_step_seconds: f64,
    pub loss: f64,
    #[serde(flatten)]
    pub options: TrainOptions,
}

/// Attaches adapters and takes training steps; `each` sees the seconds of each counted step.
///
/// # Errors
/// Options of zero, a failing step.
pub fn train(decoder: &mut Decoder, o: TrainOptions, each: &mut dyn FnMut(usize, f64)) -> Result<TrainBenchmark> {
    if [o.batch_size, o.sequence_length, o.num_steps].contains(&0) {
        return Err(Error::Request("a benchmark needs at least one row, token and step".into()));
    }
    let num_layers = o.num_layers.min(decoder.blueprint().layers.len() as i32);
    let c = LoraConfig { num_layers, compile: o.compile, ..LoraConfig::default() };
    mlx::random::seed(c.seed);
    train::attach(decoder, FineTune::Lora, num_layers, &c.lora_parameters)?;
    decoder.train();
    decoder.set_checkpoint(o.grad_checkpoint);
    let (b, t) = (o.batch_size as i32, o.sequence_length as i32 + 1);
    let ids = random_ids(decoder.blueprint().vocab, (b * t) as usize);
    let batch = Batch {
        ids: Array::from_slice(&ids.iter().map(|&i| i as i32).collect::<Vec<_>>(), [b, t]),
        lengths: Array::from_slice(&[0, t].repeat(b as usize), [b, 2]),
        packed: None,
        lines: vec![],
    };
    let mut stepper = Stepper::new(decoder, &c, Rc::new(train::cross_entropy))?;
    let (mut loss, mut first) = (f64::NAN, f64::NAN);
    let mut seconds = Vec::with_capacity(o.num_steps);
    for i in 0..o.num_steps + 2 {
        if i == 2 {
            memory::reset_peak_memory();
        }
        let start = Instant::now();
        (loss, _) = stepper.run(decoder, &batch, true)?;
        if i == 0 {
            first = start.elapsed().as_secs_f64();
        }
        if i >= 2 {
            seconds.push(start.elapsed().as_secs_f64());
            each(i - 1, start.elapsed().as_secs_f64());
        }
    }
    decoder.set_checkpoint(false);
    let (sum, best) = (seconds.iter().sum::<f64>(), seconds.iter().copied().fold(f64::INFINITY, f64::min));
    let tokens = (o.batch_size * o.sequence_length) as f64;
    Ok(TrainBenchmark {
        tokens_per_second: tokens * o.num_steps as f64 / sum,
        best_tokens_per_second: tokens / best,
        iterations_per_second: o.num_steps as f64 / sum,
        peak_memory_gb: memory::peak_memory() as f64 / 1e9,
        first_step_seconds: first,
        loss,
        options: o,
    })
}
