//! What the user sees: waits on stderr, text on stdout, one-line errors, Ctrl-C.

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A wait shorter than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(800);

/// One wait with a bar on a terminal, one line elsewhere, nothing when it is short.
pub struct Wait {
    what: &'static str,
    start: Instant,
    bar: Option<ProgressBar>,
    told: bool,
}

impl Wait {
    pub fn new(what: &'static str) -> Self {
        Wait { what, start: Instant::now(), bar: None, told: false }
    }

    /// A wait whose length nobody knows.
    pub fn spin(what: &'static str) -> Self {
        let mut wait = Wait::new(what);
        if io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner().with_message(what);
            bar.enable_steady_tick(Duration::from_millis(120));
            wait.bar = Some(bar);
        } else {
            let _ = writeln!(io::stderr(), "{what}");
        }
        wait
    }

    /// `done` of `total` steps are behind us.
    pub fn at(&mut self, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
        } else if !self.told && (self.start.elapsed() > PATIENCE || done == 0) {
            if io::stderr().is_terminal() {
                let bar = ProgressBar::new(total as u64);
                let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_message(self.what);
                bar.set_position(done as u64);
                // the elapsed time moves while a step takes long
                bar.enable_steady_tick(Duration::from_millis(250));
                self.bar = Some(bar);
            } else if self.start.elapsed() > PATIENCE {
                let _ = writeln!(io::stderr(), "{}: {done}/{total}", self.what);
                self.told = true;
            }
        }
        if done >= total {
            self.clear();
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.told = true;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The bar of a training run: loss, tokens/s, iterations/s, time left, peak memory. Nothing where stderr is no terminal.
pub struct TrainBar {
    bar: ProgressBar,
    iters: usize,
}

impl TrainBar {
    pub fn new(iters: usize) -> Self {
        let bar = if io::stderr().is_terminal() { ProgressBar::new(iters as u64) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        TrainBar { bar, iters }
    }

    pub fn at(&self, t: &mlx_lm::train::Tick) {
        self.bar.set_position(t.iteration as u64);
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_message(match t.validation {
            Some((done, all)) => format!("validation {done}/{all}"),
            None => {
                let left = (self.iters - t.iteration) as f64 / t.iterations_per_second.max(1e-9);
                format!(
                    "loss {:.3}, {:.1} tok/s, {:.2} it/s, {} left, {:.2} GB",
                    t.loss,
                    t.tokens_per_second,
                    t.iterations_per_second,
                    indicatif::HumanDuration(Duration::from_secs_f64(left.min(1e9))),
                    mlx::memory::peak_memory() as f64 / 1e9
                )
            }
        });
    }

    /// Runs `f`, which writes lines, with the bar out of the way.
    pub fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
        self.bar.suspend(f)
    }
}

impl Drop for TrainBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Writes text to stdout at once.
pub fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("stdout")
}

/// Writes a line to stdout.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    say(&format!("{text}\n"))
}

/// Writes a line to stderr.
pub fn note(text: &str) -> Result<()> {
    let _ = writeln!(io::stderr(), "{text}");
    Ok(())
}

/// Writes one JSON object to stdout.
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    line(serde_json::to_string(value)?)
}

/// The reader of our output went away.
pub fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().any(|c| c.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// An error and its causes as one line.
pub fn one_line(e: &anyhow::Error) -> String {
    format!("{e:#}").lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Warnings (and, with `RUST_LOG`, more) to stderr.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false).without_time().init();
}

static LISTENING: AtomicBool = AtomicBool::new(false);
static PRESSED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C ends the process, except while a generation listens: then the first one only ends that.
pub fn catch_ctrl_c() -> Result<()> {
    ctrlc::set_handler(|| {
        if !LISTENING.load(Ordering::SeqCst) || PRESSED.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
    })
    .context("Ctrl-C")
}

/// Asks whether Ctrl-C was pressed, for as long as it lives.
pub struct CtrlC(());

impl CtrlC {
    pub fn listen() -> Self {
        PRESSED.store(false, Ordering::SeqCst);
        LISTENING.store(true, Ordering::SeqCst);
        CtrlC(())
    }
    pub fn pressed(&self) -> bool {
        PRESSED.load(Ordering::SeqCst)
    }
}

impl Drop for CtrlC {
    fn drop(&mut self) {
        LISTENING.store(false, Ordering::SeqCst);
    }
}
