//! The command line `mlx-lm`: one file per verb. Everything that computes lives in the library.
//!
//! Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage.

mod args;
mod benchmark;
mod bundle;
mod cache_prompt;
mod chat;
mod convert;
mod doctor;
mod evaluate;
mod fuse;
mod generate;
mod inspect;
mod lora;
mod new_family;
mod pack;
mod perplexity;
mod ui;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Language models on MLX: generate, chat, measure.
#[derive(Parser)]
#[command(name = "mlx-lm", version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answer one prompt.
    Generate(generate::Args),
    /// Process a prompt once and save it, for generate --prompt-cache-file.
    CachePrompt(cache_prompt::Args),
    /// Talk with a model.
    Chat(chat::Args),
    /// Measure prompt and generation speed on random tokens.
    Benchmark(benchmark::Args),
    /// Measure how well a model predicts a text.
    Perplexity(perplexity::Args),
    /// Fine-tune with low-rank adapters (or DoRA, or all weights), test adapters.
    Lora(Box<lora::Args>),
    /// Ask multiple-choice and exact-match questions of local files.
    Evaluate(evaluate::Args),
    /// Merge adapters into a model's weights.
    Fuse(fuse::Args),
    /// Quantise, dequantise or convert a model.
    Convert(convert::Args),
    /// Say what a model is made of, from its headers alone.
    Inspect(inspect::Args),
    /// Say what models on disk are and whether they will load, find all under a directory.
    Pack(pack::Args),
    /// Start a model family in a checkout of this repository: its file, its line in the list, its golden case.
    NewFamily(new_family::Args),
    /// Say what this build and this machine are, and whether they compute right.
    Doctor(doctor::Args),
    /// Put this program and its libraries in a folder that runs on another machine.
    Bundle(bundle::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    ui::log();
    let result = match cli.verb {
        Verb::Generate(args) => generate::run(args),
        Verb::CachePrompt(args) => cache_prompt::run(args),
        Verb::Chat(args) => chat::run(args),
        Verb::Benchmark(args) => benchmark::run(args),
        Verb::Perplexity(args) => perplexity::run(args),
        Verb::Lora(args) => lora::run(*args),
        Verb::Evaluate(args) => evaluate::run(args),
        Verb::Fuse(args) => fuse::run(args),
        Verb::Convert(args) => convert::run(args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Pack(args) => pack::run(args),
        Verb::NewFamily(args) => new_family::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Bundle(args) => bundle::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if ui::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", ui::one_line(&e));
            ExitCode::FAILURE
        }
    }
}
