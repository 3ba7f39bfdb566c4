//! What this build and this machine are, and whether they compute right: the first thing to ask for in a bug report.

mod selftest;

pub use selftest::{Check, self_test};

use crate::hub;
use crate::{Error, Result};
use mlx::{Device, DeviceFact};
use mlx_sys::BUILD;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The report of [`examine`].
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this crate.
    pub mlx_lm: &'static str,
    /// Version of the MLX that is loaded, and the one that was built against.
    pub mlx: String,
    pub mlx_built: &'static str,
    pub mlx_c: &'static str,
    /// `cpu`, `metal` or `cuda`, as built and as loaded (the loader path may put another MLX first).
    pub backend_built: &'static str,
    pub backend: &'static str,
    /// How the build found MLX.
    pub route: &'static str,
    pub library: String,
    /// The BLAS of the CPU backend.
    pub blas: String,
    pub default_device: String,
    pub devices: Vec<DeviceReport>,
    /// The NVIDIA driver's version line.
    pub driver: Option<String>,
    pub cuda: Option<Cuda>,
    pub glibc: Option<String>,
    pub cpus: usize,
    /// The build's cache, and the default model's and the hub's places.
    pub cache: String,
    pub cache_bytes: u64,
    pub hub_cache: Option<String>,
    pub packaged_model: Option<String>,
    /// The switch that forbids downloads, if one is set.
    pub offline: Option<&'static str>,
    /// What is wrong, each with its remedy; empty: all is well.
    pub problems: Vec<String>,
}

/// One device: what it says of itself and what it computed.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceReport {
    pub device: String,
    pub facts: BTreeMap<String, String>,
    pub checks: Vec<Check>,
}

/// What MLX's run-time compiler of CUDA kernels needs.
#[derive(Debug, Clone, Serialize)]
pub struct Cuda {
    pub nvrtc: Option<String>,
    /// Folder with `cuda_runtime.h` or `cuda_fp16.h`.
    pub headers: Option<String>,
    /// Folder with CCCL's headers.
    pub cccl: Option<String>,
}

/// Looks at everything and runs the self-test on each device.
///
/// # Errors
/// Only if the process cannot use MLX at all; what is wrong otherwise is in `problems`.
pub fn examine() -> Result<Report> {
    let mut problems = vec![];
    let mut devices = vec![Device::Cpu];
    devices.extend((0..Device::gpu_count() as u32).map(Device::Gpu));
    let mut reports = vec![];
    for device in devices {
        let facts = match device.info() {
            Ok(facts) => facts.into_iter().map(|(k, v)| (k, fact(v))).collect(),
            Err(_) => BTreeMap::new(),
        };
        let checks = self_test(device);
        for c in checks.iter().filter(|c| !c.passed) {
            problems.push(format!("{device}: {}: {}", c.name, c.detail));
        }
        reports.push(DeviceReport { device: device.to_string(), facts, checks });
    }
    let backend = match (mlx::cuda_is_available(), mlx::metal_is_available()) {
        (true, _) => "cuda",
        (_, true) => "metal",
        _ => "cpu",
    };
    let mlx = mlx::version();
    if mlx != BUILD.mlx_version {
        problems.push(format!(
            "MLX {mlx} is loaded, this build needs {}: unset LD_LIBRARY_PATH or put the right version there",
            BUILD.mlx_version
        ));
    }
    let driver = driver();
    if driver.is_some() && backend != "cuda" {
        problems.push("there is an NVIDIA driver but this runs on the CPU: build with --features cuda".into());
    }
    let cuda = (backend == "cuda").then(cuda);
    if let Some(c) = &cuda {
        if c.nvrtc.is_none() {
            problems.push("libnvrtc was not found: install the wheel nvidia-cuda-nvrtc or a CUDA toolkit".into());
        }
        if c.headers.is_none() {
            problems.push(
                "no CUDA headers for run-time compilation: install the wheel nvidia-cuda-runtime beside MLX, or set \
                 CUDA_HOME"
                    .into(),
            );
        }
    }
    let blas = match mlx::loaded_blas() {
        b if b.is_empty() => BUILD.blas.to_owned(),
        b => b,
    };
    if cfg!(target_os = "linux") && BUILD.blas == "reference" {
        problems.push("the CPU backend runs on the slow reference BLAS: build where pip can fetch OpenBLAS".into());
    }
    Ok(Report {
        mlx_lm: env!("CARGO_PKG_VERSION"),
        mlx,
        mlx_built: BUILD.mlx_version,
        mlx_c: BUILD.mlx_c_version,
        backend_built: BUILD.backend,
        backend,
        route: BUILD.route,
        library: mlx::loaded_library(),
        blas,
        default_device: mlx::default_device().to_string(),
        devices: reports,
        driver,
        cuda,
        glibc: glibc(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        cache: BUILD.cache.to_owned(),
        cache_bytes: size(Path::new(BUILD.cache), 0),
        hub_cache: hub::hub_cache().ok().map(|p| p.display().to_string()),
        packaged_model: hub::packaged_path().ok().filter(|p| p.is_file()).map(|p| p.display().to_string()),
        offline: hub::offline(),
        problems,
    })
}

fn fact(f: DeviceFact) -> String {
    match f {
        DeviceFact::Text(t) => t,
        DeviceFact::Size(n) => n.to_string(),
    }
}

fn driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    Some(text.lines().next()?.trim_start_matches("NVRM version:").trim().to_owned())
}

fn cuda() -> Cuda {
    let lib = PathBuf::from(mlx::loaded_library());
    // site-packages/mlx/lib/libmlx.so: headers of the wheels lie in site-packages/nvidia
    let mlx = lib.parent().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
    let site = mlx.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut places: Vec<PathBuf> =
        ["cu13", "cu12", "cuda_runtime"].iter().map(|d| site.join("nvidia").join(d).join("include")).collect();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        places.extend(std::env::var_os(name).map(|d| PathBuf::from(d).join("include")));
    }
    places.push("/usr/local/cuda/include".into());
    let has = |dir: &&PathBuf| ["cuda_runtime.h", "cuda_fp16.h"].iter().any(|f| dir.join(f).is_file());
    let text = |p: &PathBuf| p.display().to_string();
    Cuda {
        nvrtc: mlx_sys::nvrtc_version().map(|(major, minor)| format!("{major}.{minor}")),
        headers: places.iter().find(has).map(text),
        cccl: Some(mlx.join("include").join("cccl")).filter(|p| p.is_dir()).as_ref().map(text),
    }
}

fn glibc() -> Option<String> {
    let out = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&out.stdout).trim().to_owned()).filter(|t| !t.is_empty())
}

/// Bytes of the files below `dir`; links are not followed.
fn size(dir: &Path, depth: usize) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() && depth < 16 => size(&e.path(), depth + 1),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Folds a report with problems into an error, for a process that wants to stop.
pub fn verdict(report: &Report) -> Result<()> {
    match report.problems.is_empty() {
        true => Ok(()),
        false => Err(Error::Request(report.problems.join("; "))),
    }
}
