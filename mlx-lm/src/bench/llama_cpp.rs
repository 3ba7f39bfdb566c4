//! llama.cpp's `llama-bench`: one run of the prompt, one of the tokens after such a prompt, as JSON.

use super::compare::{Answer, Job, OtherTrial, rate, stdout};
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

pub(super) fn trial(binary: &Path, job: &Job) -> Result<Answer> {
    let o = job.options;
    if job.model.extension().is_none_or(|e| !e.eq_ignore_ascii_case("gguf")) {
        return Err(Error::Request(format!("llama.cpp reads .gguf files, and {} is none", job.model.display())));
    }
    if o.batch_size != 1 {
        return Err(Error::Request(format!("llama-bench runs one sequence at once, not {}", o.batch_size)));
    }
    let prompt = bench(binary, job, "n_prompt", o.prompt_tokens, &[])?;
    // its tokens follow an empty context unless a depth says otherwise; ours follow the prompt
    let tokens = bench(binary, job, "n_gen", o.generation_tokens, &["--n-depth", &o.prompt_tokens.to_string()])?;
    let trial = OtherTrial { prompt_tps: prompt.rate, generation_tps: tokens.rate, peak_memory_gb: None };
    Ok(Answer { trial, version: tokens.version })
}

struct Run {
    rate: f64,
    version: String,
}

/// One test, `n_prompt` or `n_gen`, of `n` tokens, on as many threads as our kernels use.
fn bench(binary: &Path, job: &Job, test: &str, n: usize, more: &[&str]) -> Result<Run> {
    let (prompt, tokens) = if test == "n_prompt" { (n, 0) } else { (0, n) };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new(binary);
    command.arg("-m").arg(job.model).args(["-o", "json", "-r", "1", "-ngl", if job.gpu { "99" } else { "0" }]);
    for (flag, value) in [("-p", prompt), ("-n", tokens), ("-t", threads)] {
        command.args([flag, &value.to_string()]);
    }
    let text = stdout(command.args(more), "--binary PATH names llama.cpp's llama-bench")?;
    parse(&text, test, n).ok_or_else(|| {
        let wanted = format!("no JSON array with a test of {test} = {n} and its avg_ts");
        Error::program(binary, format!("{wanted} in its output; --binary PATH names llama.cpp's llama-bench"))
    })
}

fn parse(text: &str, test: &str, n: usize) -> Option<Run> {
    let rows: Vec<Value> = serde_json::from_str(text).ok()?;
    let row = rows.iter().find(|row| row[test] == n)?;
    let word = |key: &str| row[key].as_str().unwrap_or("?");
    let version = format!(
        "build {} ({}), {}, {} threads",
        row["build_number"],
        word("build_commit"),
        word("backends"),
        row["n_threads"]
    );
    Some(Run { rate: rate(row["avg_ts"].as_f64()?)?, version })
}
