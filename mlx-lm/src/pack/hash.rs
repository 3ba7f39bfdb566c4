//! One number for a model pack.

use super::directory;
use crate::weights::Checkpoint;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// Files beside the weights that decide what a model answers.
const FILES: [&str; 12] = [
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "jang_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];

/// SHA-256 over configs, tokenizer and template, the table of tensors, and the names and sizes of the weight files; not
/// over the weights themselves. The same pack in another place has the same hash.
///
/// # Errors
/// A file that cannot be read.
pub fn hash(checkpoint: &Checkpoint) -> Result<String> {
    let mut hash = Sha256::new();
    // each item with its length: no two packs give the same bytes
    let mut item = |name: &str, bytes: &[u8]| {
        for part in [name.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    };
    let dir = directory(checkpoint);
    for name in FILES {
        let path = dir.join(name);
        // a GGUF carries all of them itself
        if checkpoint.gguf_model().is_none() && path.is_file() {
            item(name, &fs::read(&path).map_err(|e| Error::io(&path, e))?);
        }
    }
    if let Some(gguf) = checkpoint.gguf_model() {
        for (key, value) in gguf.metadata() {
            item(key, format!("{value:?}").as_bytes());
        }
    }
    for info in checkpoint.infos() {
        item(&info.name, format!("{} {:?}", info.dtype, info.shape).as_bytes());
    }
    let mut files: Vec<(String, u64)> = Vec::new();
    for file in checkpoint.files() {
        let size = fs::metadata(&file).map_err(|e| Error::io(&*file, e))?.len();
        let name = Path::new(&*file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, size));
    }
    files.sort();
    for (name, size) in &files {
        item(name, &size.to_le_bytes());
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
