//! `mlx-lm lora`: fine-tuning. Flags and YAML keys are Python's; a flag beats the file, the file beats the default.

use crate::args::{DeviceArg, ModelArgs};
use crate::ui::{self, CtrlC, TrainBar};
use anyhow::{Context, Result, bail};
use mlx::nn::ModuleExt;
use mlx_lm::train::{self, AdapterConfig, Dataset, Log, LoraConfig, Report, Trainer};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::rc::Rc;

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
    /// Keep only what lies between layers for the backward pass: less memory, more time.
    #[arg(long)]
    grad_checkpoint: bool,
    /// Put several short examples into one row; they do not see each other.
    #[arg(long)]
    pack: bool,
    /// Trace the step once per shape of batch and replay it.
    #[arg(long)]
    compile: bool,
    /// Which examples share a batch: of like length, or those that Python groups (length, python).
    #[arg(long)]
    batch_order: Option<String>,
    /// Clip the gradients to this norm.
    #[arg(long)]
    max_grad_norm: Option<f64>,
    /// Give cached memory back when there is more of it than this many bytes.
    #[arg(long, value_name = "BYTES")]
    clear_cache_threshold: Option<usize>,
    /// One more file for the reports: JSON lines, or a plot if it ends in .svg or .html.
    #[arg(long, value_name = "FILE")]
    report_to: Option<String>,
    /// Also write the adapter in PEFT's form to this directory; alone, of the adapter that is at --adapter-path.
    #[arg(long, value_name = "DIR")]
    peft: Option<PathBuf>,
    #[arg(long, value_enum)]
    device: Option<DeviceArg>,
    /// Print one JSON line per report and nothing else.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Defaults, overlaid by the file, overlaid by the flags.
    fn settings(&self) -> Result<LoraConfig> {
        let mut all = Map::new();
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let file: Map<String, Value> =
                serde_yaml_ng::from_str(&text).with_context(|| format!("{}: not YAML settings", path.display()))?;
            all = file;
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
        set("grad_checkpoint", self.grad_checkpoint.then_some(true.into()));
        set("pack", self.pack.then_some(true.into()));
        set("compile", self.compile.then_some(true.into()));
        set("batch_order", self.batch_order.clone().map(Into::into));
        set("max_grad_norm", self.max_grad_norm.map(Into::into));
        set("clear_cache_threshold", self.clear_cache_threshold.map(Into::into));
        Ok(LoraConfig::from_settings(all)?)
    }
}

pub fn run(args: Args) -> Result<()> {
    let config = args.settings()?;
    config.check()?;
    if !config.train && !config.test && args.peft.is_none() {
        bail!("nothing to do: give --train, --test or --peft");
    }
    if (config.train || config.test) && !config.data.is_dir() {
        bail!("{}: no such directory", config.data.display());
    }
    ui::catch_ctrl_c()?;
    let model =
        ModelArgs { model: Some(config.model.clone()), revision: None, adapter_path: None, device: args.device };
    let mut lm = model.load()?;
    let tokenizer = lm.tokenizer.clone();
    let data = |name: &str| -> Result<Dataset> {
        let tokenizer = tokenizer.as_ref().with_context(|| format!("{} holds no tokenizer", config.model))?;
        Ok(Dataset::open(&config.data, name, tokenizer, &config)?)
    };
    let decoder = &mut lm.model.decoder;
    let mut finished = true;
    if config.train {
        let (train, valid) = (data("train")?, data("valid")?);
        if train.is_empty() {
            bail!("{}: no training examples in train.jsonl", config.data.display());
        }
        mlx::random::seed(config.seed);
        train::attach(decoder, config.fine_tune_type, config.num_layers, &config.lora_parameters)?;
        if !args.json {
            trainable(decoder)?;
        }
        let mut trainer = Trainer {
            decoder,
            config: &config,
            train: &train,
            valid: &valid,
            loss: Rc::new(train::cross_entropy),
            adapter_config: AdapterConfig::of(&config),
        };
        let more = config.report_to.as_deref().map(Path::new);
        let mut log = Log::open(&config.adapter_path, more, config.resume_adapter_file.is_some())?;
        let bar = TrainBar::new(config.iters);
        let mut failed = None;
        let ctrl_c = CtrlC::listen();
        let result = trainer.run(
            &mut |r| {
                let shown = bar.suspend(|| show(r, args.json));
                failed = failed.take().or(shown.err()).or(log.add(r).err().map(Into::into));
            },
            &mut |t| {
                bar.at(t);
                finished = !ctrl_c.pressed();
                finished
            },
        );
        drop(bar);
        log.finish()?;
        result?;
        if let Some(e) = failed {
            return Err(e);
        }
        if !args.json {
            let what = if finished { "Adapters are" } else { "Interrupted: adapters and state are" };
            ui::line(format_args!("{what} in {}", config.adapter_path.display()))?;
        }
    } else if !config.adapter_path.as_os_str().is_empty() {
        // an empty path tests the bare model, as in Python
        train::load_adapters(decoder, &config.adapter_path)?;
    }
    if let Some(dir) = &args.peft {
        train::save_peft(decoder, &config.model, dir)?;
    }
    if config.test && finished {
        let test = data("test")?;
        if test.is_empty() {
            bail!("{}: no examples in test.jsonl", config.data.display());
        }
        let loss = train::evaluate(decoder, &test, &config, &train::cross_entropy, config.test_batches)?;
        match args.json {
            true => ui::json(&serde_json::json!({ "test_loss": loss, "test_perplexity": loss.exp() }))?,
            false => ui::line(format_args!("Test loss {loss:.3}, test perplexity {:.3}", loss.exp()))?,
        }
    }
    Ok(())
}

/// Says how much of the model is trained.
fn trainable(decoder: &mlx_lm::decoder::Decoder) -> Result<()> {
    let count = |all: Vec<(String, mlx::Array)>| all.iter().map(|(_, a)| a.size()).sum::<usize>() as f64;
    let (own, all) = (count(decoder.trainable()), count(decoder.parameters()));
    ui::line(format_args!(
        "Trainable parameters: {:.3}% ({:.3}M of {:.3}M stored)",
        100.0 * own / all,
        own / 1e6,
        all / 1e6
    ))
}

/// One report, as JSON or text.
fn show(r: &Report, json: bool) -> Result<()> {
    if json {
        return ui::json(r);
    }
    match (r.val_loss, r.train_loss) {
        (Some(v), _) => ui::line(format_args!("Iter {}: val loss {v:.3}", r.iteration)),
        (_, Some(t)) => ui::line(format_args!(
            "Iter {}: train loss {t:.3}, learning rate {:.3e}, it/s {:.3}, tokens/s {:.1}, trained tokens {}, peak mem {:.3} GB",
            r.iteration,
            r.learning_rate,
            r.iterations_per_second,
            r.tokens_per_second,
            r.trained_tokens,
            r.peak_memory_gb
        )),
        _ => Ok(()),
    }
}
