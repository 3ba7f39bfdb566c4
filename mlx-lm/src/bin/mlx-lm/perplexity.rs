//! `mlx-lm perplexity`: how well a model predicts a text.

use crate::args::ModelArgs;
use crate::ui::{self, Wait};
use anyhow::Result;
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
    /// A text file.
    #[arg(long, value_name = "FILE", group = "input")]
    data: Option<PathBuf>,
    /// Cut the text into pieces of this many tokens that know nothing of each other; one piece if not given.
    #[arg(long)]
    sequence_length: Option<usize>,
    /// At most this many pieces.
    #[arg(long, requires = "sequence_length")]
    num_samples: Option<usize>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    ui::catch_ctrl_c()?;
    let lm = args.model.load()?;
    let mut ids = match (&args.ids_file, &args.data) {
        (Some(path), _) => perplexity::read_ids(path)?,
        (None, Some(path)) => lm.text_ids(&std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?)?,
        (None, None) => vec![],
    };
    if let (Some(length), Some(n)) = (args.sequence_length, args.num_samples) {
        ids.truncate(length.saturating_mul(n));
    }
    lm.check_length(args.sequence_length.map_or(ids.len(), |n| n.min(ids.len())))?;
    let mut wait = Wait::new("scoring");
    let result =
        perplexity::score(&lm.model.decoder, &ids, args.sequence_length, &mut |done, total| wait.at(done, total))?;
    match args.json {
        true => ui::json(&result),
        false => ui::line(format_args!(
            "Perplexity: {:.4} ± {:.4}\nMean negative log-likelihood: {:.7}\nTokens: {}",
            result.perplexity, result.standard_error, result.nll, result.tokens
        )),
    }
}
