//! `mlx-lm convert`: a model in another form.

use crate::args::ModelArgs;
use crate::ui::{self, Wait};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mlx::{Dtype, Quant, QuantMode};
use mlx_lm::config::read_json;
use mlx_lm::convert::{self, Recipe};
use mlx_lm::decoder::LoadOptions;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The model to read: a directory, a .gguf file, or a hub id.
    #[arg(long, alias = "model", value_name = "PATH|ID")]
    hf_path: String,
    #[arg(long)]
    revision: Option<String>,
    /// Where the result goes; must not exist or be empty.
    #[arg(long, default_value = "mlx_model")]
    mlx_path: PathBuf,
    /// Quantise.
    #[arg(short, long)]
    quantize: bool,
    #[arg(long)]
    q_bits: Option<i32>,
    #[arg(long)]
    q_group_size: Option<i32>,
    #[arg(long, value_enum, default_value = "affine")]
    q_mode: Mode,
    /// mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6, or a JSON file: path patterns with `*`, each with false, true, a number
    /// of bits, or {bits, group_size, mode}.
    #[arg(long, value_name = "RECIPE|FILE", requires = "quantize")]
    quant_predicate: Option<String>,
    /// Float type of the weights: float16, bfloat16 or float32; as in Python, without it that of the config's torch_dtype.
    #[arg(long)]
    dtype: Option<String>,
    /// Make quantised layers dense.
    #[arg(short, long, conflicts_with = "quantize")]
    dequantize: bool,
    /// Largest shard, in GB (2^30 bytes).
    #[arg(long, default_value_t = 5.0)]
    max_shard_gb: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

pub fn run(args: Args) -> Result<()> {
    let dtype = match args.dtype.as_deref() {
        None => None,
        Some(name) => match Dtype::from_name(name) {
            Some(d @ (Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32)) => Some(d),
            _ => bail!("dtype {name:?} is not one of float16, bfloat16, float32"),
        },
    };
    let model = ModelArgs {
        model: Some(args.hf_path.clone()),
        revision: args.revision.clone(),
        adapter_path: None,
        device: None,
    };
    convert::check_new(&args.mlx_path)?;
    if !(args.max_shard_gb > 0.0 && args.max_shard_gb.is_finite()) {
        bail!("--max-shard-gb {} is not a size", args.max_shard_gb);
    }
    let source = model.find()?;
    let dtype = dtype.or_else(|| config_dtype(&source));
    let mut wait = Wait::new("loading model");
    let mut progress = |done, total| wait.at(done, total);
    let options = LoadOptions { progress: Some(&mut progress), dtype, ..Default::default() };
    let mut lm = mlx_lm::load_with(&source, options).context("convert")?;
    if args.dequantize {
        convert::dequantize(&mut lm.model);
    }
    if args.quantize {
        let mode = match args.q_mode {
            Mode::Affine => QuantMode::Affine,
            Mode::Mxfp4 => QuantMode::Mxfp4,
            Mode::Mxfp8 => QuantMode::Mxfp8,
            Mode::Nvfp4 => QuantMode::Nvfp4,
        };
        let (group, bits) = mode.defaults();
        let group_size = args.q_group_size.unwrap_or(group);
        let default = Quant { group_size, bits: args.q_bits.unwrap_or(bits), mode };
        let recipe = match args.quant_predicate.as_deref() {
            None => Recipe::Uniform(default),
            Some(file) if Path::new(file).is_file() => Recipe::from_file(Path::new(file), default)?,
            Some(_) if mode != QuantMode::Affine => bail!("recipes are for --q-mode affine only"),
            Some(name) => Recipe::mixed(name, group_size)?,
        };
        let bits = convert::quantize(&mut lm.model, &recipe)?;
        eprintln!("quantised to {bits:.3} bits per weight");
    }
    let saved = convert::save(
        &mut lm.model,
        lm.tokenizer.as_ref(),
        &source,
        &args.mlx_path,
        (args.max_shard_gb * (1u64 << 30) as f64) as u64,
    )?;
    ui::line(format_args!("{} bytes in {}", saved.total_size, args.mlx_path.display()))
}

/// The float type that a model directory's config asks for (`torch_dtype`, or `text_config.dtype`).
fn config_dtype(source: &Path) -> Option<Dtype> {
    let config = read_json(&source.join("config.json")).ok()?;
    let name = config.get("torch_dtype").or_else(|| config.get("text_config")?.get("dtype"))?.as_str()?;
    Dtype::from_name(name).filter(|d| matches!(d, Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32))
}
