//! The training loop.

use super::adapters::{AdapterConfig, own_names, save_config, trained};
use super::batches::{Batch, Batches};
use super::checkpoint::Progress;
use super::config::LoraConfig;
use super::data::Dataset;
use super::loss::Loss;
use super::step::Stepper;
use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::nn::ModuleExt;
use mlx::{self as mx, memory};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Instant;

/// One line of progress. Either the training or the validation loss is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// Where a run stands, after each iteration and each batch of a validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    /// Iterations that are done.
    pub iteration: usize,
    /// Mean loss since the last report; NaN before the first batch.
    pub loss: f64,
    pub iterations_per_second: f64,
    pub tokens_per_second: f64,
    /// Batches done and to do of a validation.
    pub validation: Option<(usize, usize)>,
}

/// A run: a decoder with adapters attached, its data, and what was told of it.
pub struct Trainer<'a> {
    pub decoder: &'a mut Decoder,
    pub config: &'a LoraConfig,
    pub train: &'a Dataset,
    pub valid: &'a Dataset,
    pub loss: Rc<Loss>,
    /// Written beside every adapter file.
    pub adapter_config: AdapterConfig,
}

/// Mean loss over up to `batches` batches (-1: all) without training.
pub fn evaluate(decoder: &mut Decoder, data: &Dataset, c: &LoraConfig, loss: &Loss, batches: i64) -> Result<f64> {
    Ok(evaluate_while(decoder, data, c, loss, batches, &mut |_, _| true)?.unwrap_or(f64::NAN))
}

/// As [`evaluate`]; `go_on` is told (done, all) batches after each one. `None` if it ended this.
pub fn evaluate_while(
    decoder: &mut Decoder,
    data: &Dataset,
    c: &LoraConfig,
    loss: &Loss,
    batches: i64,
    go_on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<f64>> {
    decoder.eval();
    let mut all = Batches::unpacked(data, c)?;
    let count = if batches < 0 { all.len() } else { all.len().min(batches as usize) };
    let (mut sum, mut tokens) = (0.0, 0.0);
    for i in 0..count {
        let batch = all.next(data);
        let (mean, n) = mx::try_catch(|| loss(decoder, &batch))?;
        mx::eval([&mean, &n])?;
        let n = n.item::<f64>()?;
        sum += mean.item::<f64>()? * n;
        tokens += n;
        if !go_on(i + 1, count) {
            return Ok(None);
        }
    }
    Ok(Some(sum / f64::max(tokens, 1.0)))
}

/// Sums since the last report.
#[derive(Default)]
struct Sums {
    losses: f64,
    tokens: f64,
    steps: usize,
    seconds: f64,
}

impl Sums {
    fn tick(&self, iteration: usize, validation: Option<(usize, usize)>) -> Tick {
        Tick {
            iteration,
            loss: self.losses / self.steps as f64,
            iterations_per_second: self.steps as f64 / self.seconds.max(1e-9),
            tokens_per_second: self.tokens / self.seconds.max(1e-9),
            validation,
        }
    }
}

impl Trainer<'_> {
    /// Trains; `report` is called for each line, `go_on` after each iteration and validation batch: when it returns false
    /// the state is saved and the run ends as if finished.
    ///
    /// # Errors
    /// Broken settings, too little data, a loss or a parameter that is not finite (with the iteration and the lines of its
    /// batch; the last checkpoint stays as it is), a checkpoint of other data, a failing write.
    pub fn run(&mut self, report: &mut dyn FnMut(&Report), go_on: &mut dyn FnMut(&Tick) -> bool) -> Result<()> {
        self.decoder.set_checkpoint(self.config.grad_checkpoint);
        let result = self.iterate(report, go_on);
        self.decoder.set_checkpoint(false);
        self.decoder.eval();
        result
    }

    fn iterate(&mut self, report: &mut dyn FnMut(&Report), go_on: &mut dyn FnMut(&Tick) -> bool) -> Result<()> {
        let c = self.config;
        c.check()?;
        if c.pack {
            self.decoder.packable()?;
        }
        mx::random::seed(c.seed);
        let mut batches = Batches::new(self.train, c)?;
        let mut stepper = Stepper::new(self.decoder, c, self.loss.clone())?;
        let (mut done, mut trained_tokens) = (0, 0);
        if c.resume_adapter_file.is_some() {
            (done, trained_tokens) = self.resume(&mut stepper)?;
            batches.skip(done);
        }
        let mut sums = Sums::default();
        while done < c.iters {
            let it = done + 1;
            if !self.valid.is_empty() && (it == 1 || it % c.steps_per_eval.max(1) == 0 || it == c.iters) {
                let mut tick = |i, n| go_on(&sums.tick(done, Some((i, n))));
                match evaluate_while(self.decoder, self.valid, c, &*self.loss, c.val_batches, &mut tick)? {
                    Some(val) => report(&line(it, None, Some(val), &stepper, &sums, trained_tokens)?),
                    None => return self.save(done, trained_tokens, &stepper, true),
                }
            }
            self.decoder.train();
            let began = Instant::now();
            let batch = batches.next(self.train);
            let (loss, n) = stepper.run(self.decoder, &batch, it % c.grad_accumulation_steps == 0)?;
            if !loss.is_finite() {
                return Err(not_finite(it, &format!("the loss is {loss}"), &batch));
            }
            if c.clear_cache_threshold > 0 && memory::cache_memory() > c.clear_cache_threshold {
                memory::clear_cache();
            }
            sums.losses += loss;
            sums.tokens += n;
            sums.steps += 1;
            sums.seconds += began.elapsed().as_secs_f64();
            trained_tokens += n as u64;
            done = it;
            let stop = !go_on(&sums.tick(it, None));
            if it % c.steps_per_report.max(1) == 0 || it == c.iters {
                report(&line(it, Some(sums.losses / sums.steps as f64), None, &stepper, &sums, trained_tokens)?);
                sums = Sums::default();
            }
            if it % c.save_every.max(1) == 0 || it == c.iters || stop {
                self.check_parameters(it, &batch)?;
                self.save(it, trained_tokens, &stepper, stop || it == c.iters)?;
            }
            if stop {
                break;
            }
        }
        Ok(())
    }

    /// Refuses to save a parameter that is not finite.
    fn check_parameters(&self, iteration: usize, batch: &Batch) -> Result<()> {
        let names: Vec<_> = trained(self.decoder).into_iter().collect();
        let finite = mx::catch(|| names.iter().map(|(_, a)| a.isfinite().all(())).collect::<Vec<_>>())?;
        mx::eval(&finite)?;
        for ((name, _), ok) in names.iter().zip(&finite) {
            if !ok.item::<bool>()? {
                return Err(not_finite(iteration, &format!("{name} is not finite"), batch));
            }
        }
        Ok(())
    }

    fn save(&self, iteration: usize, trained_tokens: u64, stepper: &Stepper, last: bool) -> Result<()> {
        let dir = &self.config.adapter_path;
        let progress = Progress {
            iteration,
            trained_tokens,
            data: self.train.fingerprint(self.config),
            optimizer: stepper.optimizer_state(),
            pending: stepper.pending().cloned(),
            key: mx::random::state(),
        };
        let numbered = format!("{iteration:07}_adapters.safetensors");
        let regular = iteration.is_multiple_of(self.config.save_every.max(1));
        let names = if last && !regular { vec![] } else { vec![numbered] };
        save_config(dir, &self.adapter_config)?;
        let parameters = trained(self.decoder);
        // the plain name is written at every save, as in Python
        for name in names.into_iter().chain(["adapters.safetensors".to_string()]) {
            progress.save(&dir.join(name), &parameters)?;
        }
        Ok(())
    }

    /// Parameters, optimizer, random key and position of a checkpoint.
    fn resume(&mut self, stepper: &mut Stepper) -> Result<(usize, u64)> {
        let Some(file) = &self.config.resume_adapter_file else { return Ok((0, 0)) };
        let (parameters, state) = Progress::load(file)?;
        let parameters = own_names(self.decoder, parameters);
        self.decoder.update(parameters, false)?;
        let Some(p) = state else { return Ok((0, 0)) };
        if p.data != self.train.fingerprint(self.config) {
            return Err(Error::file(
                file,
                "was trained on other data or other batches: its position in them means nothing here; to start anew \
                 from its weights, remove the .state.safetensors file beside it",
            ));
        }
        stepper.set(&p.optimizer, p.pending)?;
        mx::random::set_state(p.key);
        Ok((p.iteration, p.trained_tokens))
    }
}

fn not_finite(iteration: usize, what: &str, batch: &Batch) -> Error {
    Error::Request(format!("iteration {iteration}: {what}; its batch holds lines {:?}", batch.lines))
}

fn line(
    iteration: usize,
    train_loss: Option<f64>,
    val_loss: Option<f64>,
    stepper: &Stepper,
    sums: &Sums,
    trained_tokens: u64,
) -> Result<Report> {
    let tick = sums.tick(iteration, None);
    let rate = |r: f64| if val_loss.is_some() { 0.0 } else { r };
    Ok(Report {
        iteration,
        train_loss,
        val_loss,
        learning_rate: stepper.learning_rate()?,
        iterations_per_second: rate(tick.iterations_per_second),
        tokens_per_second: rate(tick.tokens_per_second),
        trained_tokens,
        peak_memory_gb: memory::peak_memory() as f64 / 1e9,
    })
}
