//! `mlx-lm benchmark`: prompt and generation speed on random tokens.

use crate::args::{ModelArgs, use_device};
use crate::ui::{self, Wait};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mlx::Dtype;
use mlx_lm::Model;
use mlx_lm::bench::{self, BenchOptions, Other, Profile, Spread, TrainOptions};
use mlx_lm::config::{Config, QuantConfig, QuantParams, read_json};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Length of the prompt.
    #[arg(short, long, default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens to generate.
    #[arg(short, long, default_value_t = 1024)]
    generation_tokens: usize,
    /// Sequences at once.
    #[arg(short, long, default_value_t = 1)]
    batch_size: usize,
    /// Runs, after one that is not counted.
    #[arg(short, long, default_value_t = 5)]
    num_trials: usize,
    /// Prompt tokens that are processed at once.
    #[arg(long, default_value_t = 2048)]
    prefill_step_size: usize,
    /// A config.json whose shapes are timed without its weights.
    #[arg(long, requires = "random_weights", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Random values in place of a checkpoint.
    #[arg(long, requires = "config")]
    random_weights: bool,
    /// Pack random weights into this many bits.
    #[arg(long, requires = "random_weights")]
    bits: Option<usize>,
    /// Weights that share a scale.
    #[arg(long, default_value_t = 64)]
    group_size: usize,
    /// Type of random weights; the config's own if it names one.
    #[arg(long, value_enum, requires = "random_weights")]
    dtype: Option<DtypeArg>,
    /// Say where the time of a decoded token goes, instead.
    #[arg(long)]
    profile: bool,
    /// Time another program on the same model too, trial by trial in turn.
    #[arg(long, value_enum, value_name = "PROGRAM", conflicts_with_all = ["profile", "random_weights", "adapter_path"])]
    compare: Option<OtherArg>,
    /// The interpreter that has Python mlx-lm.
    #[arg(long, requires = "compare", value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// llama.cpp's llama-bench.
    #[arg(long, requires = "compare", value_name = "PATH", default_value = "llama-bench")]
    binary: PathBuf,
    /// Time LoRA training steps instead: --batch-size rows of --prompt-tokens tokens, --num-trials steps.
    #[arg(long, conflicts_with_all = ["profile", "compare"])]
    train: bool,
    /// Adapted layers of --train, from the end; -1 is all.
    #[arg(long, default_value_t = 16, allow_negative_numbers = true, requires = "train")]
    num_layers: i32,
    /// Compute layers of --train again in the backward pass.
    #[arg(long, requires = "train")]
    grad_checkpoint: bool,
    /// Trace the step of --train once and replay it.
    #[arg(long, requires = "train")]
    compile: bool,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    Float32,
    Float16,
    Bfloat16,
}

/// What to compare with.
#[derive(Clone, Copy, ValueEnum)]
enum OtherArg {
    Python,
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

pub fn run(args: Args) -> Result<()> {
    ui::catch_ctrl_c()?;
    let mut model = match &args.config {
        Some(path) => random(&args, path)?,
        None => args.model.load()?.model,
    };
    if args.train {
        return train(&args, &mut model);
    }
    if args.profile {
        let profile = bench::profile(&model.decoder, args.prompt_tokens, args.generation_tokens.min(64))?;
        return if args.json { ui::json(&profile) } else { table(&profile) };
    }
    let options = BenchOptions {
        prompt_tokens: args.prompt_tokens,
        generation_tokens: args.generation_tokens,
        batch_size: args.batch_size,
        num_trials: args.num_trials,
        prefill_step: args.prefill_step_size,
    };
    let show = |text: String| if args.json { ui::note(&text) } else { ui::line(text) };
    show(format!(
        "Timing {} prompt tokens, {} generated tokens, batch size {}.",
        options.prompt_tokens, options.generation_tokens, options.batch_size
    ))?;
    if let Some(other) = args.compare {
        return compare(&args, &model, other, options, &show);
    }
    let mut failed = Ok(());
    let mut wait = Some(Wait::spin("warming up"));
    let result = bench::run(&model.decoder, options, &mut |i, t| {
        wait = None;
        let line = show(format!(
            "Trial {i}: prompt_tps={:.3}, generation_tps={:.3}, peak_memory={:.3}",
            t.prompt_tps, t.generation_tps, t.peak_memory_gb
        ));
        if failed.is_ok() {
            failed = line;
        }
    })?;
    failed?;
    match args.json {
        true => ui::json(&result),
        false => ui::line(format_args!(
            "Medians: prompt_tps={:.3}, generation_tps={:.3}, peak_memory={:.3}",
            result.prompt_tps, result.generation_tps, result.peak_memory_gb
        )),
    }
}

/// Training steps.
fn train(args: &Args, model: &mut Model) -> Result<()> {
    let options = TrainOptions {
        batch_size: args.batch_size,
        sequence_length: args.prompt_tokens,
        num_steps: args.num_trials,
        num_layers: args.num_layers,
        grad_checkpoint: args.grad_checkpoint,
        compile: args.compile,
    };
    let mut wait = Some(Wait::spin("warming up"));
    let result = bench::train(&mut model.decoder, options, &mut |i, seconds| {
        wait = None;
        let _ = ui::note(&format!("Step {i}: {seconds:.3} s"));
    })?;
    match args.json {
        true => ui::json(&result),
        false => ui::line(format_args!(
            "tokens_per_second={:.3}, best={:.3}, peak_memory={:.3}",
            result.tokens_per_second, result.best_tokens_per_second, result.peak_memory_gb
        )),
    }
}

fn compare(
    args: &Args,
    model: &Model,
    other: OtherArg,
    options: BenchOptions,
    show: &dyn Fn(String) -> Result<()>,
) -> Result<()> {
    let other = match other {
        OtherArg::Python => Other::Python(args.python.clone()),
        OtherArg::LlamaCpp => Other::LlamaCpp(args.binary.clone()),
    };
    let mut failed = Ok(());
    let mut wait = Some(Wait::spin("running both programs"));
    let result = bench::compare(&model.decoder, &args.model.find()?, &other, options, &mut |i, ours, theirs| {
        wait = None;
        let line = show(format!(
            "Trial {i}: mlx-lm prompt_tps={:.3}, generation_tps={:.3}; {} prompt_tps={:.3}, generation_tps={:.3}",
            ours.prompt_tps,
            ours.generation_tps,
            other.name(),
            theirs.prompt_tps,
            theirs.generation_tps
        ));
        if failed.is_ok() {
            failed = line;
        }
    })?;
    failed?;
    if args.json {
        return ui::json(&result);
    }
    ui::line(format_args!("{}: {}", result.program, result.version))?;
    for (name, prompt, generation) in [
        ("mlx-lm", result.ours.prompt_tps, result.ours.generation_tps),
        (result.program, result.theirs.prompt_tps, result.theirs.generation_tps),
    ] {
        ui::line(format_args!("Medians of {name}: prompt_tps={prompt:.3}, generation_tps={generation:.3}"))?;
    }
    let spread = |s: Spread| format!("{:.2} ({:.2} to {:.2})", s.median, s.min, s.max);
    let (prompt, generation) = (spread(result.ratios.prompt_tps), spread(result.ratios.generation_tps));
    ui::line(format_args!("Ratios, mlx-lm to {}: prompt {prompt}, generation {generation}", result.program))
}

/// A model of a config's shape.
fn random(args: &Args, path: &PathBuf) -> Result<Model> {
    use_device(args.model.device)?;
    let config = Config::from_json(serde_json::Value::Object(read_json(path)?), path)?;
    let named = match config.dtype()? {
        Some("float32") => DtypeArg::Float32,
        Some("float16") => DtypeArg::Float16,
        _ => DtypeArg::Bfloat16,
    };
    let dtype = match args.dtype.unwrap_or(named) {
        DtypeArg::Float32 => Dtype::Float32,
        DtypeArg::Float16 => Dtype::Float16,
        DtypeArg::Bfloat16 => Dtype::Bfloat16,
    };
    let quant = match args.bits {
        Some(bits) => match QuantParams::affine(args.group_size, bits).check() {
            Ok(q) => Some(QuantConfig::new(q)),
            Err(e) => bail!("--bits {bits} --group-size {}: {e}", args.group_size),
        },
        None => None,
    };
    let _wait = Wait::spin("making random weights");
    Model::random(config, dtype, quant).with_context(|| path.display().to_string())
}

fn table(p: &Profile) -> Result<()> {
    ui::line(format_args!("One decoded token at {} tokens of context (medians of {}):", p.context, p.tokens))?;
    for (what, value) in [
        ("ops in the graph", p.ops.to_string()),
        ("host time to build it", format!("{:.3} ms", p.build_ms)),
        ("time to evaluate it", format!("{:.3} ms", p.eval_ms)),
        ("host syncs", p.host_syncs.to_string()),
        ("allocated bytes kept", format!("{} B", p.growth_bytes)),
        ("weights read", format!("{:.1} MB", p.weight_bytes as f64 / 1e6)),
        ("cache read", format!("{:.1} MB", p.cache_bytes as f64 / 1e6)),
        ("read bandwidth", format!("{:.1} GB/s", p.bandwidth_gb_s)),
        ("floor that these bytes set", format!("{:.3} ms", p.floor_ms)),
    ] {
        ui::line(format_args!("  {what:<28} {value:>14}"))?;
    }
    let mut ops: Vec<_> = p.ops_by_name.iter().collect();
    ops.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), name.as_str()));
    for (name, n) in ops {
        ui::line(format_args!("  {n:>6} {name}"))?;
    }
    Ok(())
}
