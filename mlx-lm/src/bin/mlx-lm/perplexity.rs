//! `mlx-lm perplexity`: how well a model predicts a text.

use crate::args::ModelArgs;
use crate::ui::{self, Wait};
use anyhow::{Result, bail};
use mlx_lm::{Error, perplexity};
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A file of token ids (a JSON list, or numbers with spaces or commas between). Needs no tokenizer.
    #[arg(long, value_name = "FILE", group = "input")]
    ids_file: Option<PathBuf>,
    /// A text file, or a JSONL dataset as `lora` takes it (then windows of 512 tokens, 256 of them, in random order).
    #[arg(long, value_name = "FILE", group = "input")]
    data: Option<PathBuf>,
    /// Cut the text into pieces of this many tokens that know nothing of each other; one piece if not given.
    #[arg(long)]
    sequence_length: Option<usize>,
    /// At most this many pieces.
    #[arg(long)]
    num_samples: Option<usize>,
    /// Order of a dataset's records.
    #[arg(long, default_value_t = 123)]
    seed: u32,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    ui::catch_ctrl_c()?;
    let lm = args.model.load()?;
    let dataset = args.data.as_ref().filter(|p| p.extension().is_some_and(|e| e == "jsonl"));
    let window = args.sequence_length.or(dataset.map(|_| 512));
    if args.num_samples.is_some() && window.is_none() {
        bail!("--num-samples needs --sequence-length");
    }
    let mut ids = match (&args.ids_file, &args.data) {
        (Some(path), _) => perplexity::read_ids(path)?,
        (None, Some(path)) if dataset.is_some() => {
            let samples = args.num_samples.unwrap_or(256);
            perplexity::dataset_ids(path, lm.tokenizer()?, window.unwrap_or(512), Some(samples), args.seed)?
        }
        (None, Some(path)) => lm.text_ids(&std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?)?,
        (None, None) => vec![],
    };
    if let (Some(length), Some(n)) = (window, args.num_samples) {
        ids.truncate(length.saturating_mul(n));
    }
    lm.check_length(window.map_or(ids.len(), |n| n.min(ids.len())))?;
    let mut wait = Wait::new("scoring");
    let result = perplexity::score(&lm.model.decoder, &ids, window, &mut |done, total| wait.at(done, total))?;
    match args.json {
        true => ui::json(&result),
        false => ui::line(format_args!(
            "Perplexity: {:.4} ± {:.4}\nMean negative log-likelihood: {:.7}\nTokens: {}",
            result.perplexity, result.standard_error, result.nll, result.tokens
        )),
    }
}
