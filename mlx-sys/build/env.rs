//! Every environment variable the build reads, and what cargo says about the target.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The settings of one build.
pub struct Env {
    /// `MLX_SYS_CACHE`, else `$XDG_CACHE_HOME/mlx-sys`, else `~/.cache/mlx-sys`.
    pub cache: PathBuf,
    /// `MLX_SYS_PYTHON`: the interpreter that runs pip (default `python3`).
    pub python: PathBuf,
    /// `MLX_OFFLINE` or cargo's own offline switch: nothing is downloaded.
    pub offline: bool,
    /// `MLX_SYS_BLAS=reference` keeps the BLAS of the MLX wheel; default OpenBLAS.
    pub openblas: bool,
    pub manifest: PathBuf,
    pub out: PathBuf,
    pub cargo: PathBuf,
    pub os: String,
    pub arch: String,
}

const VARIABLES: [&str; 6] =
    ["MLX_SYS_CACHE", "XDG_CACHE_HOME", "MLX_SYS_PYTHON", "MLX_OFFLINE", "CARGO_NET_OFFLINE", "MLX_SYS_BLAS"];

impl Env {
    pub fn read() -> Result<Env, String> {
        for v in VARIABLES {
            println!("cargo:rerun-if-env-changed={v}");
        }
        let path = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let need = |name: &str| path(name).ok_or_else(|| format!("{name} is not set; this is a cargo build script"));
        let text = |name: &str| env::var(name).unwrap_or_default();
        let cache = match path("MLX_SYS_CACHE") {
            Some(dir) => dir,
            None => path("XDG_CACHE_HOME")
                .filter(|d| d.is_absolute())
                .or_else(|| path("HOME").map(|h| h.join(".cache")))
                .ok_or("no place for the build cache: set MLX_SYS_CACHE, XDG_CACHE_HOME or HOME")?
                .join("mlx-sys"),
        };
        Ok(Env {
            cache: absolute(&cache)?,
            python: path("MLX_SYS_PYTHON").unwrap_or_else(|| "python3".into()),
            offline: truthy(&text("MLX_OFFLINE")) || truthy(&text("CARGO_NET_OFFLINE")),
            openblas: text("MLX_SYS_BLAS") != "reference",
            manifest: need("CARGO_MANIFEST_DIR")?,
            out: need("OUT_DIR")?,
            cargo: path("CARGO").unwrap_or_else(|| "cargo".into()),
            os: text("CARGO_CFG_TARGET_OS"),
            arch: text("CARGO_CFG_TARGET_ARCH"),
        })
    }

    /// A file of the workspace's `vendor/` folder.
    pub fn vendor(&self, name: &str) -> PathBuf {
        self.manifest.join("../vendor").join(name)
    }

    pub fn shim(&self, name: &str) -> PathBuf {
        self.manifest.join("shim").join(name)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn truthy(value: &str) -> bool {
    !matches!(value, "" | "0" | "false" | "no" | "off")
}
