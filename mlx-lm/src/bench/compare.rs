//! The same model in another program on the same machine: a trial here, a trial there, in turn, so that both meet the
//! machine in the same state; and the ratio of each pair.

use super::{BenchOptions, Benchmark, Trial, llama_cpp, median, one, python};
use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::Device;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program to compare with.
#[derive(Debug, Clone)]
pub enum Other {
    /// Python mlx-lm in this interpreter, by its own `mlx_lm.benchmark`. Reads model directories.
    Python(PathBuf),
    /// llama.cpp, by this `llama-bench`. Reads GGUF files.
    LlamaCpp(PathBuf),
}

/// One run of the other program; llama.cpp does not report memory.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct OtherTrial {
    pub prompt_tps: f64,
    pub generation_tps: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_gb: Option<f64>,
}

/// Both programs' trials, pair by pair.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Comparison {
    pub ours: Benchmark,
    /// `mlx-lm (Python)` or `llama.cpp`.
    pub program: &'static str,
    /// The other program's words on its version and devices.
    pub version: String,
    /// Its medians.
    pub theirs: OtherTrial,
    pub their_trials: Vec<OtherTrial>,
    /// Ours divided by theirs, of each pair of trials.
    pub ratios: Ratios,
}

/// How many times as fast.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Ratios {
    pub prompt_tps: Spread,
    pub generation_tps: Spread,
}

#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

/// What the other program is asked to time.
pub(super) struct Job<'a> {
    pub model: &'a Path,
    pub gpu: bool,
    pub options: &'a BenchOptions,
}

/// A run of the other program, and what it says of itself.
pub(super) struct Answer {
    pub trial: OtherTrial,
    pub version: String,
}

impl Other {
    pub fn name(&self) -> &'static str {
        match self {
            Other::Python(_) => "mlx-lm (Python)",
            Other::LlamaCpp(_) => "llama.cpp",
        }
    }

    /// One run in a process of its own.
    fn trial(&self, job: &Job) -> Result<Answer> {
        match self {
            Other::Python(python) => python::trial(python, job),
            Other::LlamaCpp(binary) => llama_cpp::trial(binary, job),
        }
    }
}

/// Times `decoder`, which was loaded from `model`, and the other program on `model`, in turn. Each of the other's trials
/// is a process of its own that loads, warms up and runs once. Decoding follows the prompt in both.
///
/// # Errors
/// [`Error::Request`] for what the other program cannot run; [`Error::Program`] if it is missing, fails, or answers in
/// a form that is not known; options of zero; a failing evaluation.
pub fn compare(
    decoder: &Decoder,
    model: &Path,
    other: &Other,
    options: BenchOptions,
    each: &mut dyn FnMut(usize, &Trial, &OtherTrial),
) -> Result<Comparison> {
    options.check()?;
    let job = Job { model, gpu: mlx::default_device() != Device::Cpu, options: &options };
    // the other's first: if it cannot run, that shows at once
    let mut answer = other.trial(&job)?;
    one(decoder, &options)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for i in 1..=options.num_trials {
        let trial = one(decoder, &options)?;
        if i > 1 {
            answer = other.trial(&job)?;
        }
        each(i, &trial, &answer.trial);
        ours.push(trial);
        theirs.push(answer.trial);
    }
    let ratio = |of: fn(&Trial) -> f64, to: fn(&OtherTrial) -> f64| {
        let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| of(a) / to(b)).collect();
        Spread {
            min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            median: median(ratios.iter().copied()),
            max: ratios.iter().copied().fold(0.0, f64::max),
        }
    };
    let ratios = Ratios {
        prompt_tps: ratio(|t| t.prompt_tps, |t| t.prompt_tps),
        generation_tps: ratio(|t| t.generation_tps, |t| t.generation_tps),
    };
    let of = |value: fn(&OtherTrial) -> f64| median(theirs.iter().map(value));
    let medians = OtherTrial {
        prompt_tps: of(|t| t.prompt_tps),
        generation_tps: of(|t| t.generation_tps),
        peak_memory_gb: answer.trial.peak_memory_gb.map(|_| of(|t| t.peak_memory_gb.unwrap_or_default())),
    };
    Ok(Comparison {
        ours: Benchmark::new(options, ours),
        program: other.name(),
        version: answer.version,
        theirs: medians,
        their_trials: theirs,
        ratios,
    })
}

/// Runs a program to its end and gives what it wrote to stdout; its failure with the last line of its stderr.
/// `remedy` follows when it cannot be started.
pub(super) fn stdout(command: &mut Command, remedy: &str) -> Result<String> {
    let program = PathBuf::from(command.get_program());
    let out = command.output().map_err(|e| Error::program(&program, format!("{e}; {remedy}")))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        let last = stderr.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or("no word on why");
        return Err(Error::program(&program, format!("{}: {last}", out.status)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A rate that can be divided by.
pub(super) fn rate(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}
