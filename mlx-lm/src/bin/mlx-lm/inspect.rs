//! `mlx-lm inspect`: what a model is made of, from its headers alone.

use crate::args::{CacheArgs, ModelArgs};
use crate::ui;
use anyhow::{Result, bail};
use mlx_lm::pack::{self, Pack};
use std::path::Path;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

/// What a model's caches are planned for, and how the plan is printed.
#[derive(clap::Args)]
pub struct PlanArgs {
    /// Tokens that the caches are planned for; as many as the model was made for when nothing is said.
    #[arg(long)]
    context: Option<usize>,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    pub json: bool,
}

impl PlanArgs {
    pub fn inspect(&self, model: impl AsRef<Path>) -> mlx_lm::Result<Pack> {
        pack::inspect(model, self.context, self.cache.options())
    }
}

pub fn run(args: Args) -> Result<()> {
    show(&args.plan.inspect(args.model.find()?)?, args.plan.json)
}

/// Prints the report; problems of the pack end in an error.
pub fn show(pack: &Pack, json: bool) -> Result<()> {
    match json {
        true => ui::json(pack)?,
        false => ui::line(text(pack))?,
    }
    let problems = &pack.found.problems;
    if !problems.is_empty() {
        bail!("{}: {}", pack.found.path, problems.join("; "));
    }
    Ok(())
}

fn text(p: &Pack) -> String {
    let i = &p.found;
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
    rows.push(("tokenizer", p.tokenizer.clone().unwrap_or("none".into())));
    rows.push(("chat template", if p.chat_template { "yes" } else { "no" }.into()));
    rows.push(("hash", p.hash.clone()));
    match &p.refusal {
        None => rows.push(("loads", "yes".into())),
        Some(why) => rows.push(("loads", format!("no: {why}"))),
    }
    if p.loads {
        rows.push(("caches", format!("{} at {} tokens", mb(p.cache_bytes), p.context)));
        // neighbours that are alike share a line
        let mut at = 0;
        for same in p.caches.chunk_by(|a, b| (&a.kind, a.bytes) == (&b.kind, b.bytes)) {
            let layers = if same.len() == 1 { format!("{at}") } else { format!("{at}..{}", at + same.len()) };
            rows.push(("  layer", format!("{layers}: {} {} each", same[0].kind, mb(same[0].bytes))));
            at += same.len();
        }
    }
    rows.iter().map(|(name, value)| format!("{name:<22} {value}")).collect::<Vec<_>>().join("\n")
}
