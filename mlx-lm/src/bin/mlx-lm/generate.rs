//! `mlx-lm generate`: answers one prompt.

use crate::args::{CacheArgs, Ids, ModelArgs, SampleArgs, ids, text_or_stdin};
use crate::ui::{self, CtrlC, Wait};
use anyhow::{Context, Result, bail};
use clap::ArgAction;
use mlx_lm::cache::PromptCache;
use mlx_lm::chat::{Message, RenderOptions};
use mlx_lm::generate::{Processor, Stats, TokenOptions};
use mlx_lm::{LanguageModel, StreamOptions};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The question, or text to continue; - reads it from stdin.
    #[arg(short, long, default_value = "hello", allow_hyphen_values = true)]
    prompt: String,
    /// Token ids in place of a text: 1,2,3. Needs no tokenizer.
    #[arg(long, value_name = "IDS", value_parser = ids)]
    prompt_ids: Option<Ids>,
    /// What the model is told before the conversation.
    #[arg(long)]
    system_prompt: Option<String>,
    /// Text that the answer starts with.
    #[arg(long)]
    prefill_response: Option<String>,
    /// Longest answer in tokens.
    #[arg(short, long, default_value_t = 100)]
    max_tokens: usize,
    #[command(flatten)]
    sample: SampleArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Text that ends the answer; may be given several times.
    #[arg(long)]
    stop: Vec<String>,
    /// Further tokens (or ids) that end the answer.
    #[arg(long, num_args = 1..)]
    extra_eos_token: Vec<String>,
    /// Go on after an end-of-sequence token.
    #[arg(long)]
    ignore_eos: bool,
    /// Continue the prompt as it is.
    #[arg(long)]
    ignore_chat_template: bool,
    /// Variables of the chat template, a JSON object.
    #[arg(long, value_name = "JSON")]
    chat_template_config: Option<String>,
    /// Prompt tokens that are processed at once.
    #[arg(long, default_value_t = 2048)]
    prefill_step_size: usize,
    /// Go on from a prompt that `cache-prompt` saved.
    #[arg(long, value_name = "FILE")]
    prompt_cache_file: Option<std::path::PathBuf>,
    /// Print more than the answer.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    verbose: bool,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    prompt_ids: Vec<u32>,
    /// An end of sequence that was generated is the last of them.
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    text: String,
    finish_reason: Option<&'static str>,
    #[serde(flatten)]
    stats: Stats,
    load_seconds: f64,
}

pub fn run(mut args: Args) -> Result<()> {
    ui::catch_ctrl_c()?;
    let saved = args.prompt_cache_file.as_ref().map(PromptCache::load).transpose()?;
    if let Some(saved) = &saved {
        args.model.same_model(saved)?;
        args.cache.same_bits(saved)?;
    }
    let mut lm = args.model.load()?;
    for token in &args.extra_eos_token {
        lm.tokenizer()?;
        if let Some(t) = &mut lm.tokenizer {
            t.add_eos(token)?;
        }
    }
    let prompt = prompt(&args, &lm)?;
    let shown = args.verbose && !args.json;
    let mut wait = Wait::new("reading the prompt");
    let processors = args.sample.processors();
    let options = StreamOptions {
        tokens: TokenOptions {
            max_tokens: Some(args.max_tokens),
            sampler: args.sample.sampler(&lm),
            processors: if processors.is_empty() { vec![] } else { vec![Box::new(processors) as Box<dyn Processor>] },
            prefill_step: args.prefill_step_size,
            kv_quant: args.cache.quant(),
            logprobs: args.json,
            progress: Some(Box::new(move |done, total| wait.at(done, total))),
            ..TokenOptions::default()
        },
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
    };
    let mut report = Report {
        prompt_ids: prompt,
        token_ids: vec![],
        logprobs: vec![],
        text: String::new(),
        finish_reason: None,
        stats: Stats::default(),
        load_seconds: lm.load_time.as_secs_f64(),
    };
    let mut caches = match saved {
        Some(saved) => lm.model.decoder.adopt_caches(saved.caches)?,
        None => lm.caches_with(args.cache.options())?,
    };
    let stream = lm.stream(&report.prompt_ids, &mut caches, options)?;
    if shown {
        ui::line("==========")?;
    }
    let ctrl_c = CtrlC::listen();
    for response in stream {
        let r = response?;
        report.token_ids.push(r.token);
        report.logprobs.extend(r.logprob);
        report.finish_reason = r.finish_reason.map(|f| f.name());
        report.stats = r.stats;
        if !args.json {
            match r.text.is_empty() && lm.tokenizer.is_none() {
                true => ui::say(&format!("{} ", r.token))?,
                false => ui::say(&r.text)?,
            }
        }
        report.text.push_str(&r.text);
        if ctrl_c.pressed() {
            break;
        }
    }
    match args.json {
        true => ui::json(&report),
        false if shown => ui::line(format_args!("\n==========\n{}", report.stats)),
        false => ui::line(""),
    }
}

fn prompt(args: &Args, lm: &LanguageModel) -> Result<Vec<u32>> {
    if let Some(ids) = &args.prompt_ids {
        return Ok(ids.0.clone());
    }
    let text = text_or_stdin(args.prompt.clone())?;
    if args.ignore_chat_template || lm.tokenizer()?.chat_template().is_none() {
        return Ok(lm.text_ids(&text)?);
    }
    let mut options = RenderOptions::default();
    if let Some(json) = &args.chat_template_config {
        match serde_json::from_str(json).context("--chat-template-config")? {
            serde_json::Value::Object(map) => options.variables = map,
            _ => bail!("--chat-template-config is not a JSON object"),
        }
    }
    let mut messages: Vec<Message> = args.system_prompt.iter().map(Message::system).collect();
    messages.push(Message::user(text));
    if let Some(start) = &args.prefill_response {
        messages.push(Message::assistant(start.as_str()));
        options.add_generation_prompt = false;
        options.continue_final_message = true;
    }
    // the question continues what a saved prompt holds already
    Ok(match args.prompt_cache_file {
        Some(_) => lm.suffix_ids(&messages, &options)?,
        None => lm.chat_ids_with(&messages, &options)?,
    })
}
