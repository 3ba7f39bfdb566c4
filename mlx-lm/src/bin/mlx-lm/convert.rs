//! `mlx-lm convert`: a model in another form.

use crate::args::ModelArgs;
use crate::ui::{self, Wait};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mlx::nn::{LayerMut, Module};
use mlx::{Dtype, Quant, QuantMode};
use mlx_lm::convert::{self, Recipe};
use mlx_lm::decoder::LoadOptions;
use std::path::PathBuf;

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
    /// mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6.
    #[arg(long, value_name = "RECIPE")]
    quant_predicate: Option<String>,
    /// Float type of the weights: float16, bfloat16 or float32.
    #[arg(long)]
    dtype: Option<String>,
    /// Make quantised layers dense.
    #[arg(short, long, conflicts_with = "quantize")]
    dequantize: bool,
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
    let source = model.find()?;
    let mut wait = Wait::new("loading model");
    let mut progress = |done, total| wait.at(done, total);
    let options = LoadOptions { progress: Some(&mut progress), dtype, ..Default::default() };
    let mut lm = mlx_lm::load_with(&source, options).context("convert")?;
    if args.dequantize {
        lm.model.decoder.layers_mut(&mut mlx::nn::Path::new(), &mut |_, layer| match layer {
            LayerMut::Linear(l) => l.dequantize(),
            LayerMut::Embedding(l) => l.dequantize(),
            LayerMut::SwitchLinear(l) => l.dequantize(),
        });
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
        let recipe = match &args.quant_predicate {
            Some(name) => Recipe::mixed(name, group_size)?,
            None => Recipe::Uniform(Quant { group_size, bits: args.q_bits.unwrap_or(bits), mode }),
        };
        let bits = convert::quantize(&mut lm.model, recipe)?;
        eprintln!("quantised to {bits:.3} bits per weight");
    }
    let saved = convert::save(&mut lm.model, lm.tokenizer.as_ref(), &source, &args.mlx_path)?;
    ui::line(format_args!("{} bytes in {}", saved.total_size, args.mlx_path.display()))
}
