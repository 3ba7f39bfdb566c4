//! A model on disk before it is loaded: what it is, what its caches will take, and whether it will load. Headers and
//! configs are read, weights never.

mod discover;
mod hash;

pub use discover::discover;
pub use hash::hash;

use crate::cache::{Cache, CacheOptions};
use crate::decoder::{Decoder, LoadOptions, Model};
use crate::generate::gguf_options;
use crate::weights::{Checkpoint, Inspection, inspect_checkpoint};
use crate::{Error, Result};
use mlx::{self as mx, Array};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// The report of [`inspect`].
#[derive(Clone, Debug, Serialize)]
pub struct Pack {
    #[serde(flatten)]
    pub found: Inspection,
    /// Of everything but the weights' bytes, see [`hash`].
    pub hash: String,
    /// The tokenizer's algorithm; `None` when the pack holds none.
    pub tokenizer: Option<String>,
    pub chat_template: bool,
    /// The model builds from these names, types and shapes.
    pub loads: bool,
    /// Why it does not.
    pub refusal: Option<String>,
    /// Tokens that the caches are planned for.
    pub context: usize,
    /// Of each layer, and of each pass over the layers.
    pub caches: Vec<LayerCache>,
    pub cache_bytes: u64,
}

/// What one layer remembers.
#[derive(Clone, Debug, Serialize)]
pub struct LayerCache {
    pub layer: usize,
    /// The class of the cache, as prompt-cache files name it.
    pub kind: String,
    /// Bytes once `context` tokens were seen.
    pub bytes: u64,
}

/// Looks at a model directory or file. The caches are those of `options` after `context` tokens; by default as many as
/// the model was made for.
///
/// # Errors
/// What opening the checkpoint and reading its config refuse. That the model will not load is part of the report.
pub fn inspect(path: impl AsRef<Path>, context: Option<usize>, options: CacheOptions) -> Result<Pack> {
    let checkpoint = Checkpoint::open_with(path, gguf_options())?;
    let config = checkpoint.config()?;
    let context = match context {
        Some(n) => n,
        None => config.context()?.unwrap_or(DEFAULT_CONTEXT),
    };
    let planned = Model::outline(config, &checkpoint, LoadOptions::default())
        .and_then(|model| plan(&model.decoder, context, options));
    let (caches, refusal) = match planned {
        Ok(caches) => (caches, None),
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    let tokenizer = tokenizer(&checkpoint)?;
    Ok(Pack {
        found: inspect_checkpoint(&checkpoint)?,
        hash: hash(&checkpoint)?,
        chat_template: has_template(&checkpoint)?,
        tokenizer,
        loads: refusal.is_none(),
        refusal,
        context,
        cache_bytes: caches.iter().map(|c| c.bytes).sum(),
        caches,
    })
}

/// Tokens that are planned for when a config names no length.
const DEFAULT_CONTEXT: usize = 4096;

/// Bytes of every cache: one step that is never computed gives the shapes.
fn plan(decoder: &Decoder, context: usize, options: CacheOptions) -> Result<Vec<LayerCache>> {
    let n = i32::try_from(context).map_err(|_| Error::Request(format!("a context of {context} tokens is too long")))?;
    let mut caches = decoder.caches_with(options)?;
    mx::catch(|| decoder.hidden(&Array::from_slice(&[0, 0], [1, 2]), &mut caches))?;
    let layer = |layer: usize, c: &dyn Cache| LayerCache {
        layer,
        kind: if c.is_stateless() { "none".into() } else { c.kind().into() },
        bytes: c.nbytes_at(n) as u64,
    };
    Ok(caches.iter().enumerate().map(|(i, c)| layer(i, c.as_ref())).collect())
}

/// The directory that holds the checkpoint's other files.
fn directory(checkpoint: &Checkpoint) -> &Path {
    let path = checkpoint.path();
    if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) }
}

fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<String>> {
    if let Some(gguf) = checkpoint.gguf_model() {
        let model = gguf.metadata().get("tokenizer.ggml.model");
        return Ok(model.and_then(|m| m.as_str()).map(str::to_owned));
    }
    let path = directory(checkpoint).join("tokenizer.json");
    if !path.is_file() {
        return Ok(None);
    }
    let json = crate::config::read_json(&path)?;
    let kind = json.get("model").and_then(|m| m.get("type")).and_then(Value::as_str);
    Ok(Some(kind.unwrap_or("unknown").to_owned()))
}

fn has_template(checkpoint: &Checkpoint) -> Result<bool> {
    if let Some(gguf) = checkpoint.gguf_model() {
        return Ok(gguf.metadata().contains_key("tokenizer.chat_template"));
    }
    let dir = directory(checkpoint);
    if dir.join("chat_template.jinja").is_file() || dir.join("chat_template.json").is_file() {
        return Ok(true);
    }
    let path = dir.join("tokenizer_config.json");
    Ok(path.is_file() && crate::config::read_json(&path)?.contains_key("chat_template"))
}
