//! `mlx-lm bundle`: a folder that runs on another machine.

use crate::ui;
use anyhow::{Context, Result};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The folder; it is made if it is not there.
    dir: PathBuf,
    /// Programs to put in it; this one if none is named.
    binaries: Vec<PathBuf>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub fn run(mut args: Args) -> Result<()> {
    if args.binaries.is_empty() {
        args.binaries.push(std::env::current_exe().context("the path of this program")?);
    }
    let done = mlx_sys::bundle(&args.dir, &args.binaries)?;
    if args.json {
        return ui::json(&serde_json::json!({ "binaries": done.binaries, "files": done.files, "bytes": done.bytes }));
    }
    let names: Vec<String> = done.binaries.iter().map(|b| b.display().to_string()).collect();
    ui::line(format_args!("{} ({} files, {:.0} MB)", names.join(" "), done.files, done.bytes as f64 / 1e6))
}
