//! How well a model predicts a text: mean negative log-likelihood and perplexity.

use crate::decoder::{Decoder, cross_entropy, eval_caches};
use crate::{Error, Result};
use mlx::{self as mx, Array, memory};
use std::path::Path;

/// Negative log-likelihoods, natural logarithm.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Likelihood {
    /// Mean over all predicted tokens.
    pub nll: f64,
    /// Tokens predicted: those of each window but its first.
    pub tokens: usize,
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Standard error of the perplexity, from the spread over tokens.
    pub standard_error: f64,
}

/// Positions whose logits exist at once.
const CHUNK: usize = 256;

/// Scores ids in windows of `window` tokens that know nothing of each other; `None` is one window.
///
/// `progress` is called with (done, total) tokens.
///
/// # Errors
/// Fewer than two ids, an id outside of the vocabulary, a failing evaluation.
pub fn score(
    decoder: &Decoder,
    ids: &[u32],
    window: Option<usize>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Likelihood> {
    let vocab = decoder.blueprint().vocab;
    if let Some(id) = ids.iter().find(|&&id| i64::from(id) >= i64::from(vocab)) {
        return Err(Error::Request(format!("token id {id} is not in the vocabulary of {vocab}")));
    }
    let window = window.unwrap_or(ids.len());
    if window < 2 || ids.len() < 2 {
        return Err(Error::Request("perplexity needs at least two tokens".into()));
    }
    let (mut sum, mut squares, mut tokens, mut done) = (0.0f64, 0.0f64, 0usize, 0usize);
    let total = ids.len();
    for ids in ids.chunks(window) {
        let mut caches = decoder.caches()?;
        let targets = ids.get(1..).unwrap_or_default();
        for (chunk, next) in ids.chunks(CHUNK).zip(targets.chunks(CHUNK)) {
            let l = next.len() as i32;
            let losses = mx::catch(|| {
                let logits = decoder.forward(&Array::from_slice(&chunk[..next.len()], [1, l]), &mut caches);
                cross_entropy(&logits, &Array::from_slice(next, [1, l]))
            })?;
            eval_caches(&caches)?;
            for loss in losses.to_vec::<f32>()? {
                sum += f64::from(loss);
                squares += f64::from(loss).powi(2);
            }
            tokens += next.len();
            done += chunk.len();
            progress(done, total);
            memory::clear_cache();
        }
    }
    let nll = sum / tokens as f64;
    // as Python, the unbiased one
    let n = tokens as f64;
    let variance = ((squares - n * nll * nll) / f64::max(n - 1.0, 1.0)).max(0.0);
    let perplexity = nll.exp();
    Ok(Likelihood { nll, tokens, perplexity, standard_error: perplexity * (variance / tokens as f64).sqrt() })
}

/// Ids of a JSONL dataset, as `mlx_lm.perplexity` takes them: records in numpy's random order after `seed`, one after the
/// other, cut to whole windows, at most `samples` of them.
///
/// # Errors
/// Those of [`Dataset::read`](crate::train::Dataset::read); less than one window.
pub fn dataset_ids(
    path: &Path,
    tokenizer: &crate::tokenizer::Tokenizer,
    window: usize,
    samples: Option<usize>,
    seed: u32,
) -> Result<Vec<u32>> {
    use crate::train::{Dataset, LoraConfig, Shuffle};
    let set = Dataset::read(path, tokenizer, &LoraConfig::default())?;
    let wanted = samples.map_or(usize::MAX, |n| n.saturating_mul(window));
    let mut ids = Vec::new();
    for i in Shuffle::new(seed).permutation(set.len()) {
        if ids.len() >= wanted {
            break;
        }
        ids.extend(&set.examples[i].ids);
    }
    ids.truncate((ids.len() / window.max(1) * window).min(wanted));
    if ids.is_empty() {
        return Err(Error::file(path, format!("holds less than one window of {window} tokens")));
    }
    Ok(ids)
}

/// Reads token ids from a file: numbers with anything but digits between them, as in a JSON list.
pub fn read_ids(path: impl AsRef<Path>) -> Result<Vec<u32>> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let mut ids = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for word in line.split(|c: char| c.is_whitespace() || ",;[]".contains(c)).filter(|w| !w.is_empty()) {
            let bad = |_| Error::file(path, format!("line {}: {word:?} is not a token id", i + 1));
            ids.push(word.parse().map_err(bad)?);
        }
    }
    Ok(ids)
}
