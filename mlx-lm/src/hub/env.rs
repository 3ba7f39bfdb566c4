//! Every environment variable that finding models reads.
use std::env;
use std::path::PathBuf;

use crate::{Error, Result};

/// A variable that is set and not empty.
pub(super) fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|v| !v.trim().is_empty())
}

pub(super) fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

fn truthy(name: &str) -> bool {
    text(name).is_some_and(|v| !matches!(v.to_lowercase().as_str(), "0" | "false" | "no" | "off"))
}

/// The switch that forbids downloads, if one is set: `HF_HUB_OFFLINE`, `MLX_OFFLINE` or `CARGO_NET_OFFLINE`.
pub fn offline() -> Option<&'static str> {
    ["HF_HUB_OFFLINE", "MLX_OFFLINE", "CARGO_NET_OFFLINE"].into_iter().find(|n| truthy(n))
}

/// `$XDG_CACHE_HOME`, else `~/.cache`.
pub(super) fn cache_home() -> Result<PathBuf> {
    let xdg = path("XDG_CACHE_HOME").filter(|d| d.is_absolute());
    xdg.or_else(|| path("HOME").or_else(|| path("USERPROFILE")).map(|h| h.join(".cache")))
        .ok_or_else(|| Error::Hub("no place for a cache: set HOME or XDG_CACHE_HOME".into()))
}

/// `HF_HOME`, else `huggingface` in the cache folder.
pub(super) fn hf_home() -> Result<PathBuf> {
    path("HF_HOME").map_or_else(|| Ok(cache_home()?.join("huggingface")), Ok)
}

/// The token: `HF_TOKEN`, else the file that `hf auth login` writes.
pub(super) fn token() -> Option<String> {
    if let Some(token) = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
        return Some(token.trim().to_owned());
    }
    let file = path("HF_TOKEN_PATH").or_else(|| Some(hf_home().ok()?.join("token")))?;
    std::fs::read_to_string(file).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
}

/// The hub's address.
pub(super) fn endpoint() -> String {
    text("HF_ENDPOINT").map_or_else(|| "https://huggingface.co".into(), |e| e.trim_end_matches('/').to_owned())
}

/// `MLX_SYS_CACHE`, else `mlx-sys` in the cache folder: the folder of the build, whose `models` holds packaged models.
pub(super) fn mlx_cache() -> Result<PathBuf> {
    path("MLX_SYS_CACHE").map_or_else(|| Ok(cache_home()?.join("mlx-sys")), Ok)
}

/// The interpreter that runs pip.
pub(super) fn python() -> PathBuf {
    path("MLX_SYS_PYTHON").unwrap_or_else(|| "python3".into())
}
