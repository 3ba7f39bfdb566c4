//! `mlx-lm evaluate`: multiple-choice and exact-match tasks from local files.

use crate::args::ModelArgs;
use crate::ui::{self, Wait};
use anyhow::{Context, Result, bail};
use mlx_lm::evaluate::{self, EvaluateOptions, Kind, Task};
use mlx_lm::train::Adapters;
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// JSONL files: query, choices, answer; or prompt, answer.
    #[arg(long, num_args = 1.., required = true, value_name = "FILE")]
    tasks: Vec<PathBuf>,
    /// Ask with each of these adapters in turn, on one loaded model.
    #[arg(long, num_args = 1.., value_name = "DIR", conflicts_with = "adapter_path")]
    adapters: Vec<PathBuf>,
    /// At most this many questions of each task.
    #[arg(long)]
    limit: Option<usize>,
    /// Answered questions before each one, from the end of the file.
    #[arg(long, default_value_t = 0)]
    num_shots: usize,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// What ends an answer; a line break if not given.
    #[arg(long, num_args = 1..)]
    until: Vec<String>,
    /// Ask through the chat template.
    #[arg(long)]
    apply_chat_template: bool,
    /// Keep each answer in the report.
    #[arg(long)]
    log_samples: bool,
    /// Also write the report to this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    ui::catch_ctrl_c()?;
    let tasks = args.tasks.iter().map(|p| Task::read(p)).collect::<Result<Vec<_>, _>>()?;
    let standard = EvaluateOptions::default();
    let options = EvaluateOptions {
        limit: args.limit,
        num_shots: args.num_shots,
        max_tokens: args.max_tokens,
        until: if args.until.is_empty() { standard.until } else { args.until.clone() },
        chat: args.apply_chat_template,
        log_samples: args.log_samples,
    };
    if args.max_tokens == 0 || args.limit == Some(0) {
        bail!("--max-tokens and --limit must be at least 1");
    }
    let mut lm = args.model.load()?;
    let mut resident = Adapters::default();
    let names: Vec<String> = args.adapters.iter().map(|p| p.display().to_string()).collect();
    for (name, dir) in names.iter().zip(&args.adapters) {
        resident.load(&mut lm.model.decoder, name, dir)?;
    }
    let given = args.model.adapter_path.as_ref().map(|p| p.display().to_string());
    let turns: Vec<Option<&str>> =
        if names.is_empty() { vec![None] } else { names.iter().map(|n| Some(n.as_str())).collect() };
    let mut results = Vec::new();
    for turn in turns {
        if turn.is_some() {
            resident.switch(&mut lm.model.decoder, turn)?;
        }
        for task in &tasks {
            let mut wait = Wait::new("evaluating");
            let report = evaluate::run(&lm, task, &options, &mut |done, all| wait.at(done, all))?;
            drop(wait);
            let adapter = turn.map(str::to_string).or_else(|| given.clone());
            if !args.json {
                let named = adapter.as_ref().map_or(String::new(), |a| format!(" with {a}"));
                let norm = match (report.kind, report.accuracy_norm, report.accuracy_norm_stderr) {
                    (Kind::MultipleChoice, Some(a), Some(e)) => format!(", by length {a:.4} ± {e:.4}"),
                    _ => String::new(),
                };
                ui::line(format_args!(
                    "{}{named}: accuracy {:.4} ± {:.4}{norm} ({} questions, {:.1} s)",
                    report.task, report.accuracy, report.accuracy_stderr, report.samples, report.seconds
                ))?;
            }
            let mut value = serde_json::to_value(&report)?;
            value["adapter"] = json!(adapter);
            results.push(value);
        }
    }
    let report = json!({
        "model": lm.path.display().to_string(), "num_shots": options.num_shots,
        "apply_chat_template": options.chat, "results": results,
    });
    if let Some(path) = &args.output {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    if args.json { ui::json(&report) } else { Ok(()) }
}
