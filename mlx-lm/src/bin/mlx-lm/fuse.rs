//! `mlx-lm fuse`: adapters merged into a model.

use crate::args::ModelArgs;
use crate::ui;
use anyhow::{Result, bail};
use mlx_lm::{convert, train};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where the fused model goes; must not exist or be empty.
    #[arg(long, default_value = "fused_model")]
    save_path: PathBuf,
    /// Leave the fused layers dense.
    #[arg(long)]
    dequantize: bool,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.model.adapter_path.is_none() {
        bail!("fuse needs --adapter-path");
    }
    convert::check_new(&args.save_path)?;
    let source = args.model.find()?;
    let mut lm = args.model.load()?;
    let report = train::fuse(&mut lm.model.decoder, args.dequantize)?;
    if !report.lost.is_empty() {
        eprintln!(
            "warning: in {} of {} layers most of the update is below a quantisation step and lost ({}, ...); --dequantize \
             keeps it",
            report.lost.len(),
            report.fused.len(),
            report.lost[0]
        );
    }
    let saved =
        convert::save(&mut lm.model, lm.tokenizer.as_ref(), &source, &args.save_path, convert::MAX_SHARD_BYTES)?;
    match args.json {
        true => ui::json(&report),
        false => ui::line(format_args!(
            "Fused {} layers; {} bytes in {}",
            report.fused.len(),
            saved.total_size,
            args.save_path.display()
        )),
    }
}
