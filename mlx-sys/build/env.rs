//! Every environment variable the build reads, and what cargo says about the target.

use std::{ffi::OsString, path::PathBuf};

/// What a change of makes the build run again. (`CMAKE`, `CXX` and the like: the crates `cmake` and `cc`.)
pub const VARIABLES: [&str; 12] = [
    "MLX_SYS_CACHE",
    "XDG_CACHE_HOME",
    "MLX_SYS_PYTHON",
    "MLX_SYS_BLAS",
    "MLX_DIR",
    "MLX_SOURCE_DIR",
    "MLX_CMAKE_ARGS",
    "MLX_C_SOURCE_DIR",
    "MLX_OFFLINE",
    "CARGO_NET_OFFLINE",
    "DOCS_RS",
    "CMAKE",
];

/// The settings of one build.
#[derive(Clone, Debug)]
pub struct Env {
    /// `MLX_SYS_CACHE`, else `$XDG_CACHE_HOME/mlx-sys`, else `~/Library/Caches/mlx-sys` on macOS and
    /// `~/.cache/mlx-sys` elsewhere.
    pub cache: PathBuf,
    /// `MLX_SYS_PYTHON`: the interpreter that runs pip and may hold an MLX wheel; default `python3`.
    pub python: PathBuf,
    /// `MLX_OFFLINE`, or cargo's `CARGO_NET_OFFLINE`: nothing is downloaded.
    pub offline: bool,
    /// Off with `MLX_SYS_BLAS=reference`: keeps the slow BLAS of MLX's Linux wheels.
    pub openblas: bool,
    /// `MLX_DIR`: a prefix with MLX's `include/` and `lib/`.
    pub mlx_dir: Option<PathBuf>,
    /// `MLX_SOURCE_DIR`: MLX's source tree, for the feature `source`.
    pub mlx_source: Option<PathBuf>,
    /// `MLX_CMAKE_ARGS`: further arguments, split at spaces, for the CMake of the feature `source`.
    pub cmake_args: Vec<String>,
    /// `MLX_C_SOURCE_DIR`: mlx-c's source tree, in place of the one cargo fetches.
    pub mlxc_source: Option<PathBuf>,
    /// Off with the feature `no-link` or on docs.rs: the crate then has no library and links none.
    pub link: bool,
    /// Feature `cuda`.
    pub cuda: bool,
    /// Feature `source`.
    pub source: bool,
    pub manifest: PathBuf,
    pub cargo: PathBuf,
    /// The target as `linux-x86_64`; the machine that builds likewise.
    pub target: String,
    pub host: String,
    /// `gnu`, `musl`, or empty.
    pub abi: String,
}

impl Env {
    /// Reads the settings through `get` (the process environment, or a test's).
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Env, String> {
        let path = |name: &str| get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let text = |name: &str| get(name).unwrap_or_default().to_string_lossy().into_owned();
        let blas = text("MLX_SYS_BLAS");
        if !matches!(blas.as_str(), "" | "openblas" | "reference") {
            return Err(format!("MLX_SYS_BLAS is {blas:?}; it may be \"openblas\" or \"reference\""));
        }
        let target = format!("{}-{}", text("CARGO_CFG_TARGET_OS"), text("CARGO_CFG_TARGET_ARCH"));
        let caches = if target.starts_with("macos") { "Library/Caches" } else { ".cache" };
        let cache = match path("MLX_SYS_CACHE") {
            Some(dir) => dir,
            None => path("XDG_CACHE_HOME")
                .filter(|d| d.is_absolute())
                .or_else(|| path("HOME").map(|h| h.join(caches)))
                .ok_or("no place for the build cache: set MLX_SYS_CACHE, XDG_CACHE_HOME or HOME")?
                .join("mlx-sys"),
        };
        Ok(Env {
            cache: std::path::absolute(&cache).map_err(|e| format!("MLX_SYS_CACHE: {}: {e}", cache.display()))?,
            python: path("MLX_SYS_PYTHON").unwrap_or_else(|| "python3".into()),
            offline: truthy(&text("MLX_OFFLINE")) || truthy(&text("CARGO_NET_OFFLINE")),
            openblas: blas != "reference",
            mlx_dir: path("MLX_DIR"),
            mlx_source: path("MLX_SOURCE_DIR"),
            cmake_args: text("MLX_CMAKE_ARGS").split_whitespace().map(String::from).collect(),
            mlxc_source: path("MLX_C_SOURCE_DIR"),
            link: path("CARGO_FEATURE_NO_LINK").is_none() && path("DOCS_RS").is_none(),
            cuda: path("CARGO_FEATURE_CUDA").is_some(),
            source: path("CARGO_FEATURE_SOURCE").is_some(),
            manifest: path("CARGO_MANIFEST_DIR")
                .ok_or("CARGO_MANIFEST_DIR is not set: this is a cargo build script")?,
            cargo: path("CARGO").unwrap_or_else(|| "cargo".into()),
            target,
            host: system(&text("HOST")),
            abi: text("CARGO_CFG_TARGET_ENV"),
        })
    }

    /// A file of the workspace's `vendor/` folder.
    pub fn vendor(&self, name: &str) -> PathBuf {
        self.manifest.join("../vendor").join(name)
    }

    /// A source of the shim.
    pub fn shim(&self, name: &str) -> PathBuf {
        self.manifest.join("shim").join(name)
    }

    pub fn macos(&self) -> bool {
        self.target.starts_with("macos-")
    }

    /// `cpu`, `metal` or `cuda`.
    pub fn backend(&self) -> &'static str {
        match (self.macos(), self.cuda) {
            (true, _) => "metal",
            (false, true) => "cuda",
            (false, false) => "cpu",
        }
    }

    /// The package that holds MLX for this target.
    pub fn package(&self) -> &'static str {
        match self.backend() {
            "metal" => "mlx-metal",
            "cuda" => "mlx-cuda-13",
            _ => "mlx-cpu",
        }
    }

    /// File name of a shared library.
    pub fn library(&self, name: &str) -> String {
        format!("lib{name}.{}", if self.macos() { "dylib" } else { "so" })
    }
}

/// `x86_64-unknown-linux-gnu` as `linux-x86_64`, `aarch64-apple-darwin` as `macos-aarch64`.
fn system(triple: &str) -> String {
    let arch = triple.split('-').next().unwrap_or_default();
    let os = if triple.contains("darwin") {
        "macos"
    } else if triple.contains("linux") {
        "linux"
    } else {
        "unknown"
    };
    format!("{os}-{arch}")
}

fn truthy(value: &str) -> bool {
    !matches!(value, "" | "0" | "false" | "no" | "off")
}
