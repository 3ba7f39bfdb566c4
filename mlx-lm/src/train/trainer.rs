//! The training loop.

use super::adapters::{AdapterConfig, save_adapters};
use super::batches::{Batch, Batches};
use super::checkpoint::Progress;
use super::config::{LoraConfig, OptimizerName, ScheduleConfig};
use super::data::Dataset;
use super::loss::Loss;
use super::shuffle::Shuffle;
use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::nn::{Grads, ModuleExt};
use mlx::optim::{self, Optimizer, Rate};
use mlx::{self as mx, Array, memory};
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

/// One line of progress. Either the training or the validation loss is there.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub iteration: usize,
    pub train_loss: Option<f64>,
    pub val_loss: Option<f64>,
    pub learning_rate: f64,
    pub iterations_per_second: f64,
    pub tokens_per_second: f64,
    pub trained_tokens: u64,
    pub peak_memory_gb: f64,
}

/// A run: a decoder with adapters attached, its data, and what was told of it.
pub struct Trainer<'a> {
    pub decoder: &'a mut Decoder,
    pub config: &'a LoraConfig,
    pub train: &'a Dataset,
    pub valid: &'a Dataset,
    pub loss: &'a Loss,
    /// Written beside every adapter file.
    pub adapter_config: AdapterConfig,
}

/// Learning rate of a run: a number, or a schedule after a warm-up.
fn rate(c: &LoraConfig) -> Result<Rate> {
    let Some(s) = &c.lr_schedule else { return Ok(c.learning_rate.into()) };
    let schedule = schedule(s)?;
    if s.warmup <= 0 {
        return Ok(Rate::from(move |step: &Array| schedule(step)));
    }
    // Python starts the schedule one step after the warm-up has reached its first value
    let peak = schedule(&Array::from(0u64)).item::<f32>()? as f64;
    let warm = optim::linear_schedule(s.warmup_init, peak, s.warmup);
    let joined = optim::join_schedules(vec![Box::new(warm), schedule], vec![s.warmup + 1]);
    Ok(Rate::from(joined))
}

fn schedule(s: &ScheduleConfig) -> Result<optim::Schedule> {
    let a = |i: usize| s.arguments.get(i).copied();
    let need =
        |i: usize| a(i).ok_or_else(|| Error::Request(format!("lr_schedule {}: argument {i} is missing", s.name)));
    Ok(match s.name.as_str() {
        "cosine_decay" => Box::new(optim::cosine_decay(need(0)?, need(1)? as i32, a(2).unwrap_or(0.0))),
        "linear_schedule" => Box::new(optim::linear_schedule(need(0)?, need(1)?, need(2)? as i32)),
        "exponential_decay" => Box::new(optim::exponential_decay(need(0)?, need(1)?)),
        "step_decay" => Box::new(optim::step_decay(need(0)?, need(1)?, need(2)? as i32)),
        other => return Err(Error::Request(format!("lr_schedule {other:?} is not known"))),
    })
}

fn optimizer(c: &LoraConfig) -> Result<Box<dyn Optimizer>> {
    let rate = rate(c)?;
    let number = |k: &str| c.optimizer_config.get(k).and_then(serde_json::Value::as_f64);
    let betas = c.optimizer_config.get("betas").and_then(|b| Some([b.get(0)?.as_f64()?, b.get(1)?.as_f64()?]));
    Ok(match c.optimizer {
        OptimizerName::Adam => {
            let mut o = optim::Adam::new(rate);
            o.betas = betas.unwrap_or(o.betas);
            o.eps = number("eps").unwrap_or(o.eps);
            Box::new(o)
        }
        OptimizerName::Adamw => {
            let mut o = optim::AdamW::new(rate);
            o.betas = betas.unwrap_or(o.betas);
            o.eps = number("eps").unwrap_or(o.eps);
            o.weight_decay = number("weight_decay").unwrap_or(o.weight_decay);
            Box::new(o)
        }
        OptimizerName::Muon => Box::new(optim::Muon::new(rate)),
        OptimizerName::Sgd => {
            let mut o = optim::SGD::new(rate);
            o.momentum = number("momentum").unwrap_or(o.momentum);
            o.weight_decay = number("weight_decay").unwrap_or(o.weight_decay);
            Box::new(o)
        }
        OptimizerName::Adafactor => Box::new(optim::Adafactor::new(rate)),
    })
}

/// Mean loss over up to `batches` batches (-1: all) without training.
pub fn evaluate(decoder: &mut Decoder, data: &Dataset, c: &LoraConfig, loss: &Loss, batches: i64) -> Result<f64> {
    decoder.eval();
    let mut all = Batches::new(data, c.batch_size, c.max_seq_length, Shuffle::new(c.seed as u32))?;
    let count = if batches < 0 { all.len() } else { all.len().min(batches as usize) };
    let (mut sum, mut tokens) = (0.0, 0.0);
    for _ in 0..count {
        let batch = all.next(data);
        let (mean, n) = mx::try_catch(|| loss(decoder, &batch))?;
        mx::eval([&mean, &n])?;
        let n = n.item::<f64>()?;
        sum += mean.item::<f64>()? * n;
        tokens += n;
    }
    Ok(sum / f64::max(tokens, 1.0))
}

impl Trainer<'_> {
    /// Trains; `report` is called for each line, `stopped` is asked after each iteration: then the state is saved and the
    /// run ends as if finished.
    ///
    /// # Errors
    /// Broken settings, too little data, a loss that is not finite (with the iteration and the lines of its batch; the
    /// last checkpoint stays as it is), a failing write.
    pub fn run(&mut self, report: &mut dyn FnMut(&Report), stopped: &dyn Fn() -> bool) -> Result<()> {
        let c = self.config;
        c.check()?;
        mx::random::seed(c.seed);
        let mut optimizer = optimizer(c)?;
        let mut batches = Batches::new(self.train, c.batch_size, c.max_seq_length, Shuffle::new(c.seed as u32))?;
        let params: Grads = self.decoder.trainable().into_iter().collect();
        if params.is_empty() {
            return Err(Error::Request("nothing is trainable: attach adapters first".into()));
        }
        optimizer.init(&params);
        let (mut start, mut trained_tokens) = (0, 0);
        if let Some(file) = &c.resume_adapter_file {
            (start, trained_tokens) = self.resume(file, optimizer.as_mut())?;
            batches.skip(start);
        }
        let clock = Instant::now();
        let (mut losses, mut tokens, mut steps, mut spent) = (0.0, 0.0, 0usize, 0.0);
        let mut pending: Option<Grads> = None;
        for it in start + 1..=c.iters {
            if !self.valid.is_empty() && (it == 1 || it % c.steps_per_eval.max(1) == 0 || it == c.iters) {
                let val = evaluate(self.decoder, self.valid, c, self.loss, c.val_batches)?;
                report(&self.line(it, None, Some(val), &*optimizer, 0.0, 0.0, trained_tokens)?);
            }
            self.decoder.train();
            let began = Instant::now();
            let batch = batches.next(self.train);
            let (loss, n) = self.step(&batch, optimizer.as_mut(), &mut pending, it % c.grad_accumulation_steps == 0)?;
            if !loss.is_finite() {
                let lines = &batch.lines;
                return Err(Error::Request(format!(
                    "iteration {it}: the loss is {loss}; its batch holds lines {lines:?}"
                )));
            }
            (losses, tokens, steps) = (losses + loss, tokens + n, steps + 1);
            trained_tokens += n as u64;
            spent += began.elapsed().as_secs_f64();
            if it % c.steps_per_report.max(1) == 0 || it == c.iters {
                let (its, tps) = (steps as f64 / spent, tokens / spent);
                report(&self.line(it, Some(losses / steps as f64), None, &*optimizer, its, tps, trained_tokens)?);
                (losses, tokens, steps, spent) = (0.0, 0.0, 0, 0.0);
            }
            let stop = stopped();
            if it % c.save_every.max(1) == 0 || it == c.iters || stop {
                self.save(it, trained_tokens, &*optimizer, stop || it == c.iters)?;
            }
            if stop {
                break;
            }
        }
        tracing::debug!("trained for {:.1} s", clock.elapsed().as_secs_f64());
        self.decoder.eval();
        Ok(())
    }

    /// One forward and backward pass; an update when `update`.
    fn step(
        &mut self,
        batch: &Batch,
        optimizer: &mut dyn Optimizer,
        pending: &mut Option<Grads>,
        update: bool,
    ) -> Result<(f64, f64)> {
        let c = self.config;
        let loss = self.loss;
        let value_and_grad =
            mx::nn::try_value_and_grad(|d: &Decoder, b: &Batch| -> Result<(Array, Array)> { loss(d, b) });
        let decoder = &mut *self.decoder;
        let (mean, n, grads) = mx::try_catch(|| -> Result<_> {
            let ((mean, n), mut grads) = value_and_grad(decoder, batch)?;
            if let Some(before) = pending.take() {
                grads =
                    grads.into_iter().map(|(k, g)| (k.clone(), before.get(&k).map_or(g.clone(), |b| &g + b))).collect();
            }
            Ok((mean, n, grads))
        })?;
        if update {
            mx::catch(|| {
                let mut grads = grads;
                if c.grad_accumulation_steps > 1 {
                    let by = c.grad_accumulation_steps as f32;
                    grads = grads.into_iter().map(|(k, g)| (k, g / by)).collect();
                }
                if c.max_grad_norm > 0.0 {
                    grads = optim::clip_grad_norm(&grads, c.max_grad_norm).0;
                }
                let parameters: Grads = decoder.trainable().into_iter().collect();
                let new = optimizer.apply_gradients(&grads, &parameters);
                decoder.update(new, false)
            })??;
        } else {
            *pending = Some(grads);
        }
        let mut real: Vec<Array> = decoder.trainable().into_iter().map(|(_, a)| a).collect();
        real.extend(optimizer.state().into_values());
        real.extend(pending.iter().flatten().map(|(_, g)| g.clone()));
        real.extend([mean.clone(), n.clone(), mx::random::state()]);
        mx::eval(&real)?;
        Ok((mean.item::<f64>()?, n.item::<f64>()?))
    }

    fn line(
        &self,
        iteration: usize,
        train_loss: Option<f64>,
        val_loss: Option<f64>,
        o: &dyn Optimizer,
        iterations_per_second: f64,
        tokens_per_second: f64,
        trained_tokens: u64,
    ) -> Result<Report> {
        let learning_rate = o.state().get("learning_rate").map_or(Ok(0.0), |r| r.item::<f64>())?;
        Ok(Report {
            iteration,
            train_loss,
            val_loss,
            learning_rate,
            iterations_per_second,
            tokens_per_second,
            trained_tokens,
            peak_memory_gb: memory::peak_memory() as f64 / 1e9,
        })
    }

    fn save(&self, iteration: usize, trained_tokens: u64, o: &dyn Optimizer, last: bool) -> Result<()> {
        let dir = &self.config.adapter_path;
        let progress = Progress { iteration, trained_tokens, optimizer: o.state(), key: mx::random::state() };
        let numbered = format!("{iteration:07}_adapters.safetensors");
        let regular = iteration.is_multiple_of(self.config.save_every.max(1));
        let names = if last && !regular { vec![] } else { vec![numbered] };
        // the plain name is written at every save, as in Python
        for name in names.into_iter().chain(["adapters.safetensors".to_string()]) {
            save_adapters(self.decoder, dir, &name, &self.adapter_config)?;
            progress.save(&dir.join(name))?;
        }
        Ok(())
    }

    /// Parameters, optimizer, random key and position of a checkpoint.
    fn resume(&mut self, file: &Path, optimizer: &mut dyn Optimizer) -> Result<(usize, u64)> {
        if !file.exists() {
            return Err(Error::file(file, "missing"));
        }
        let arrays = mlx::io::load_safetensors(file)?.0;
        self.decoder.update(arrays, false)?;
        let Some(p) = Progress::load(file)? else { return Ok((0, 0)) };
        optimizer.set_state(&p.optimizer)?;
        mx::random::set_state(p.key);
        Ok((p.iteration, p.trained_tokens))
    }
}
