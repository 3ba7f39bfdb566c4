//! The shared Hugging Face cache, laid out as Python's: `models--org--name/{refs,snapshots}`.
use std::fs;
use std::path::{Path, PathBuf};

use super::env;
use crate::config::read_json;
use crate::{Error, Result};

/// The cache folder: `HF_HUB_CACHE`, else `hub` in `HF_HOME`. Absolute.
pub fn hub_cache() -> Result<PathBuf> {
    let path = match env::path("HF_HUB_CACHE").or_else(|| env::path("HUGGINGFACE_HUB_CACHE")) {
        Some(path) => path,
        None => env::hf_home()?.join("hub"),
    };
    std::path::absolute(&path).map_err(|e| Error::io(&path, e))
}

/// A snapshot that can be used as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The snapshot, or the file of it that was asked for.
    pub path: PathBuf,
    pub commit: String,
}

/// A complete snapshot of a repository in the cache. `revision`: branch, tag, full commit; default `main`.
pub fn cached(repo: &str, revision: Option<&str>, file: Option<&str>) -> Option<Found> {
    let folder = hub_cache().ok()?.join(format!("models--{}", repo.replace('/', "--")));
    let revision = revision.unwrap_or("main");
    let commit = match fs::read_to_string(folder.join("refs").join(revision)) {
        Ok(commit) => commit.trim().to_owned(),
        Err(_) => revision.to_owned(),
    };
    if commit.is_empty() || !commit.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let snapshot = folder.join("snapshots").join(&commit);
    let path = match file {
        Some(file) => Some(snapshot.join(file)).filter(|p| p.is_file())?,
        None if complete(&snapshot) => snapshot,
        None => return None,
    };
    Some(Found { path, commit })
}

/// It has a config, a tokenizer and all its weight files.
pub(super) fn complete(dir: &Path) -> bool {
    if !dir.join("config.json").is_file() {
        return false;
    }
    let names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    // a tokenizer is fetched after the weights' index and before the weights: its absence means an interrupted download
    let tokenizer = names.iter().any(|n| n.starts_with("tokenizer") || n.ends_with(".tiktoken"));
    let weights = match read_json(&dir.join("model.safetensors.index.json")) {
        Ok(index) => {
            let map = index.get("weight_map").and_then(|m| m.as_object());
            map.is_some_and(|m| m.values().all(|f| f.as_str().is_some_and(|f| dir.join(f).is_file())))
        }
        // links whose blob is gone do not count
        Err(_) => names.iter().any(|n| n.starts_with("model") && n.ends_with(".safetensors") && dir.join(n).is_file()),
    };
    tokenizer && weights
}
