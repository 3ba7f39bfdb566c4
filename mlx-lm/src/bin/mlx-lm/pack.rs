//! `mlx-lm pack`: what models on disk are, and whether they will load.

use crate::args::ModelArgs;
use crate::inspect::{PlanArgs, show};
use crate::ui;
use anyhow::Result;
use mlx_lm::{hub, pack};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Look at all models under a directory instead; without one, at those of the Hugging Face cache.
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "model")]
    discover: Option<Option<PathBuf>>,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: Args) -> Result<()> {
    let plan = args.plan;
    let Some(root) = args.discover else {
        return show(&plan.inspect(args.model.find()?)?, plan.json);
    };
    let root = root.map_or_else(hub::hub_cache, Ok)?;
    let mut all = Vec::new();
    for path in pack::discover(&root)? {
        // one broken model does not hide the others
        let (text, json) = match plan.inspect(&path) {
            Ok(found) => (line(&found), serde_json::to_value(&found)?),
            Err(e) => (
                format!("broken      {}: {e}", path.display()),
                json!({"path": path, "loads": false, "refusal": e.to_string()}),
            ),
        };
        match plan.json {
            true => all.push(json),
            false => ui::line(text)?,
        }
    }
    match plan.json {
        true => ui::json(&json!({"directory": root, "models": Value::Array(all)})),
        false => Ok(()),
    }
}

/// One model on one line.
fn line(p: &pack::Pack) -> String {
    let quant = p.found.quantization.first().map_or(p.found.declared_quantization.clone(), |q| q.params.to_string());
    let loads = if p.loads { "loads" } else { "will not load" };
    let (bytes, cache) = (p.found.bytes as f64 / 1e6, p.cache_bytes as f64 / 1e6);
    format!(
        "{loads:<13} {:<16} {quant:<26} {bytes:>9.1} MB, caches {cache:.1} MB  {}",
        p.found.model_type, p.found.path
    )
}
