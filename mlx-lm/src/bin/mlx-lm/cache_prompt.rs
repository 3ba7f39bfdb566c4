//! `mlx-lm cache-prompt`: processes a prompt once; `generate --prompt-cache-file` goes on from it, here and in Python.

use crate::args::{CacheArgs, Ids, ModelArgs, ids, text_or_stdin};
use crate::ui::{self, Wait};
use anyhow::Result;
use mlx_lm::cache::PromptCache;
use mlx_lm::generate::{TokenOptions, Tokens};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args)]
#[group(id = "what", required = true, multiple = false, args = ["prompt", "prompt_ids"])]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to process; - reads it from stdin.
    #[arg(long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Token ids in place of a text: 1,2,3. Needs no tokenizer.
    #[arg(long, value_name = "IDS", value_parser = ids)]
    prompt_ids: Option<Ids>,
    /// The file to save.
    #[arg(long, value_name = "FILE")]
    prompt_cache_file: PathBuf,
    #[command(flatten)]
    cache: CacheArgs,
    /// Prompt tokens that are processed at once.
    #[arg(long, default_value_t = 2048)]
    prefill_step_size: usize,
    /// The token that ends a sequence, as the file notes it for Python.
    #[arg(long)]
    eos_token: Option<String>,
    /// Noted for Python; no code of a checkpoint is ever run here.
    #[arg(long)]
    trust_remote_code: bool,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let lm = args.model.load()?;
    let ids = match (args.prompt_ids, args.prompt) {
        (Some(ids), _) => ids.0,
        (None, text) => lm.prefix_ids(&text_or_stdin(text.unwrap_or_default())?)?,
    };
    lm.check_length(ids.len())?;
    let mut caches = lm.caches_with(args.cache.options())?;
    let mut wait = Wait::new("reading the prompt");
    let options = TokenOptions {
        max_tokens: Some(0),
        prefill_step: args.prefill_step_size,
        kv_quant: args.cache.quant(),
        progress: Some(Box::new(move |done, total| wait.at(done, total))),
        ..TokenOptions::default()
    };
    drop(Tokens::new(&lm.model.decoder, &ids, &mut caches, options)?);
    let mut tokenizer = json!({"trust_remote_code": args.trust_remote_code});
    if let Some(eos) = &args.eos_token {
        tokenizer["eos_token"] = json!(eos);
    }
    let metadata = BTreeMap::from([
        ("model".to_string(), args.model.name().to_string()),
        ("tokenizer_config".to_string(), tokenizer.to_string()),
    ]);
    PromptCache::save(&args.prompt_cache_file, &caches, &metadata)?;
    let bytes: usize = caches.iter().map(|c| c.nbytes()).sum();
    let peak = mlx::memory::peak_memory() as f64 / 1e9;
    let file = args.prompt_cache_file.display();
    match args.json {
        true => ui::json(&json!({
            "prompt_tokens": ids.len(), "cache_bytes": bytes, "file": file.to_string(), "peak_memory_gb": peak,
        })),
        false => ui::line(format_args!("Saved {} tokens to {file}\nPeak memory: {peak:.3} GB", ids.len())),
    }
}
