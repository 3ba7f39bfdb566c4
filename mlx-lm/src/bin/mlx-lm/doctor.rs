//! `mlx-lm doctor`: what this build and this machine are, and whether they compute right.

use crate::ui::{self, Wait};
use anyhow::Result;
use mlx_lm::doctor::{self, Report};

#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let wait = Wait::new("examining");
    let report = doctor::examine()?;
    drop(wait);
    match args.json {
        true => ui::json(&report)?,
        false => ui::line(text(&report))?,
    }
    Ok(doctor::verdict(&report)?)
}

fn text(r: &Report) -> String {
    let none = || "none".to_owned();
    let mut lines = vec![];
    let mut row = |name: &str, value: String| lines.push(format!("{name:<18} {value}"));
    row("mlx-lm", r.mlx_lm.into());
    row("MLX", format!("{} (built against {}, mlx-c {})", r.mlx, r.mlx_built, r.mlx_c));
    row("backend", format!("{} (built for {}, MLX from {})", r.backend, r.backend_built, r.route));
    row("library", r.library.clone());
    row("BLAS", r.blas.clone());
    row("default device", r.default_device.clone());
    row("NVIDIA driver", r.driver.clone().unwrap_or_else(none));
    if let Some(c) = &r.cuda {
        row("NVRTC", c.nvrtc.clone().unwrap_or_else(none));
        row("CUDA headers", c.headers.clone().unwrap_or_else(none));
        row("CCCL headers", c.cccl.clone().unwrap_or_else(none));
    }
    row("C library", r.glibc.clone().unwrap_or_else(none));
    row("CPUs", r.cpus.to_string());
    row("build cache", format!("{} ({:.0} MB)", r.cache, r.cache_bytes as f64 / 1e6));
    row("default model", r.packaged_model.clone().unwrap_or_else(|| "not in the cache yet".into()));
    row("hub cache", r.hub_cache.clone().unwrap_or_else(none));
    row("downloads", r.offline.map_or_else(|| "allowed".into(), |s| format!("forbidden by {s}")));
    for d in &r.devices {
        lines.push(format!("\n{}", d.device));
        lines.extend(d.facts.iter().map(|(k, v)| format!("  {k:<28} {v}")));
        lines.extend(d.checks.iter().map(|c| {
            let result = if c.passed { "ok" } else { "FAILED" };
            format!("  {:<28} {result:<7} error {:.1e}  {:.1} ms", c.name, c.error, c.milliseconds)
        }));
    }
    lines.join("\n")
}
