//! `mlx-lm lora`: fine-tuning. Flags and YAML keys are Python's; a flag beats the file, the file beats the default.

use crate::args::{DeviceArg, ModelArgs};
use crate::ui::{self, CtrlC, Wait};
use anyhow::{Context, Result, bail};
use mlx_lm::train::{self, AdapterConfig, Dataset, LoraConfig, Report, Trainer};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// A YAML file with any of these settings.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long, value_name = "PATH|ID")]
    model: Option<String>,
    /// Train.
    #[arg(long)]
    train: bool,
    /// Measure the loss on the test set afterwards.
    #[arg(long)]
    test: bool,
    /// Directory with train.jsonl, valid.jsonl, test.jsonl.
    #[arg(long)]
    data: Option<PathBuf>,
    /// lora, dora or full.
    #[arg(long)]
    fine_tune_type: Option<String>,
    /// adam, adamw, muon, sgd or adafactor.
    #[arg(long)]
    optimizer: Option<String>,
    /// Learn only the last message of each example.
    #[arg(long)]
    mask_prompt: bool,
    /// Layers to adapt, from the end; -1 is all.
    #[arg(long, allow_negative_numbers = true)]
    num_layers: Option<i32>,
    #[arg(long)]
    batch_size: Option<usize>,
    #[arg(long)]
    iters: Option<usize>,
    #[arg(long, allow_negative_numbers = true)]
    val_batches: Option<i64>,
    #[arg(long)]
    learning_rate: Option<f64>,
    #[arg(long)]
    steps_per_report: Option<usize>,
    #[arg(long)]
    steps_per_eval: Option<usize>,
    #[arg(long)]
    grad_accumulation_steps: Option<usize>,
    #[arg(long, value_name = "FILE")]
    resume_adapter_file: Option<PathBuf>,
    /// Where adapters are written, or read for --test.
    #[arg(long, value_name = "DIR")]
    adapter_path: Option<PathBuf>,
    #[arg(long)]
    save_every: Option<usize>,
    #[arg(long, allow_negative_numbers = true)]
    test_batches: Option<i64>,
    #[arg(long)]
    max_seq_length: Option<usize>,
    #[arg(long)]
    seed: Option<u64>,
    /// Append each report to this file as JSON.
    #[arg(long, value_name = "FILE")]
    report_to: Option<String>,
    #[arg(long, value_enum)]
    device: Option<DeviceArg>,
    /// Print one JSON line per report and nothing else.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Defaults, overlaid by the file, overlaid by the flags.
    fn settings(&self) -> Result<LoraConfig> {
        let mut all = match serde_json::to_value(LoraConfig::default())? {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let file: Map<String, Value> =
                serde_yaml_ng::from_str(&text).with_context(|| format!("{}: not YAML settings", path.display()))?;
            all.extend(file.into_iter().filter(|(_, v)| !v.is_null()));
        }
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(v) = value {
                all.insert(key.into(), v);
            }
        };
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string().into());
        set("model", self.model.clone().map(Into::into));
        set("train", self.train.then_some(true.into()));
        set("test", self.test.then_some(true.into()));
        set("data", path(&self.data));
        set("fine_tune_type", self.fine_tune_type.clone().map(Into::into));
        set("optimizer", self.optimizer.clone().map(Into::into));
        set("mask_prompt", self.mask_prompt.then_some(true.into()));
        set("num_layers", self.num_layers.map(Into::into));
        set("batch_size", self.batch_size.map(Into::into));
        set("iters", self.iters.map(Into::into));
        set("val_batches", self.val_batches.map(Into::into));
        set("learning_rate", self.learning_rate.map(Into::into));
        set("steps_per_report", self.steps_per_report.map(Into::into));
        set("steps_per_eval", self.steps_per_eval.map(Into::into));
        set("grad_accumulation_steps", self.grad_accumulation_steps.map(Into::into));
        set("resume_adapter_file", path(&self.resume_adapter_file));
        set("adapter_path", path(&self.adapter_path));
        set("save_every", self.save_every.map(Into::into));
        set("test_batches", self.test_batches.map(Into::into));
        set("max_seq_length", self.max_seq_length.map(Into::into));
        set("seed", self.seed.map(Into::into));
        set("report_to", self.report_to.clone().map(Into::into));
        let config: LoraConfig = serde_json::from_value(Value::Object(all)).context("settings")?;
        if config.grad_checkpoint {
            bail!("grad_checkpoint is not available yet");
        }
        Ok(config)
    }
}

pub fn run(args: Args) -> Result<()> {
    let config = args.settings()?;
    config.check()?;
    if !config.train && !config.test {
        bail!("nothing to do: give --train or --test");
    }
    if !config.data.is_dir() {
        bail!("{}: no such directory", config.data.display());
    }
    ui::catch_ctrl_c()?;
    let model =
        ModelArgs { model: Some(config.model.clone()), revision: None, adapter_path: None, device: args.device };
    let mut lm = model.load()?;
    let tokenizer = lm.tokenizer()?.clone();
    let data = |name: &str| Dataset::open(&config.data, name, &tokenizer, &config);
    if config.train {
        let (train, valid) = (data("train")?, data("valid")?);
        if train.is_empty() {
            bail!("{}: no training examples in train.jsonl", config.data.display());
        }
        train::attach(&mut lm.model.decoder, config.fine_tune_type, config.num_layers, &config.lora_parameters)?;
        let mut trainer = Trainer {
            decoder: &mut lm.model.decoder,
            config: &config,
            train: &train,
            valid: &valid,
            loss: &train::cross_entropy,
            adapter_config: AdapterConfig::of(&config),
        };
        let mut log = match &config.report_to {
            Some(path) => Some(std::fs::File::create(path).with_context(|| path.clone())?),
            None => None,
        };
        let mut wait = Wait::new("training");
        let mut failed = None;
        let ctrl_c = CtrlC::listen();
        trainer.run(
            &mut |r| {
                wait.at(r.iteration, config.iters);
                failed = failed.take().or(show(r, args.json, config.iters, &mut log).err());
            },
            &|| ctrl_c.pressed(),
        )?;
        if let Some(e) = failed {
            return Err(e);
        }
        if !args.json {
            ui::line(format_args!("Adapters are in {}", config.adapter_path.display()))?;
        }
    } else {
        train::load_adapters(&mut lm.model.decoder, &config.adapter_path)?;
    }
    if config.test {
        let test = data("test")?;
        if test.is_empty() {
            bail!("{}: no examples in test.jsonl", config.data.display());
        }
        let loss = train::evaluate(&mut lm.model.decoder, &test, &config, &train::cross_entropy, config.test_batches)?;
        match args.json {
            true => ui::json(&serde_json::json!({ "test_loss": loss, "test_perplexity": loss.exp() }))?,
            false => ui::line(format_args!("Test loss {loss:.3}, test perplexity {:.3}", loss.exp()))?,
        }
    }
    Ok(())
}

/// One report: to the log, and as JSON or text.
fn show(r: &Report, json: bool, iters: usize, log: &mut Option<std::fs::File>) -> Result<()> {
    if let Some(file) = log {
        writeln!(file, "{}", serde_json::to_string(r)?)?;
    }
    if json {
        return ui::json(r);
    }
    match (r.val_loss, r.train_loss) {
        (Some(v), _) => ui::line(format_args!("Iter {}: val loss {v:.3}", r.iteration)),
        (_, Some(t)) => {
            let left = (iters - r.iteration) as f64 / r.iterations_per_second.max(1e-9);
            ui::line(format_args!(
                "Iter {}: train loss {t:.3}, learning rate {:.3e}, it/s {:.3}, tokens/s {:.1}, trained tokens {}, peak mem {:.3} GB, {left:.0} s left",
                r.iteration,
                r.learning_rate,
                r.iterations_per_second,
                r.tokens_per_second,
                r.trained_tokens,
                r.peak_memory_gb
            ))
        }
        _ => Ok(()),
    }
}
