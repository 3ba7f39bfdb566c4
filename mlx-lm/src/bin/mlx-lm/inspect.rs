//! `mlx-lm inspect`: what a model is made of, from its headers alone.

use crate::args::ModelArgs;
use crate::ui;
use anyhow::{Result, bail};
use mlx_lm::weights::{self, Inspection};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let found = weights::inspect(args.model.find()?)?;
    match args.json {
        true => ui::json(&found)?,
        false => ui::line(text(&found))?,
    }
    if !found.problems.is_empty() {
        bail!("{}: {}", found.path, found.problems.join("; "));
    }
    Ok(())
}

fn text(i: &Inspection) -> String {
    let mb = |n: u64| format!("{:.1} MB", n as f64 / 1e6);
    let mut rows = vec![
        ("path", i.path.clone()),
        ("format", format!("{:?}", i.format).to_lowercase()),
        ("model type", i.model_type.clone()),
        ("parameters", format!("{:.1} M", i.parameters as f64 / 1e6)),
        ("bits per weight", format!("{:.3}", i.bits_per_weight)),
        ("bytes", format!("{} ({} on disk, {} files)", mb(i.bytes), mb(i.bytes_on_disk), i.shards.len())),
        ("tensors", i.tensors.to_string()),
        ("declared quantization", i.declared_quantization.clone()),
    ];
    for q in &i.quantization {
        rows.push(("packed", format!("{} tensors {}", q.tensors, q.params)));
    }
    rows.iter().map(|(name, value)| format!("{name:<22} {value}")).collect::<Vec<_>>().join("\n")
}
