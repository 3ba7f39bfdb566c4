//! The next token of many prompts, without generating: prefill only.

use super::processors::log_softmax;
use crate::decoder::{Decoder, eval_caches};
use crate::{Error, Result};
use mlx::{self as mx, Array};

/// How [`classify`] works.
#[derive(Debug, Clone)]
pub struct ClassifyOptions {
    /// Only these ids are candidates; empty: all of the vocabulary.
    pub labels: Vec<u32>,
    /// Prompts that are processed together.
    pub rows: usize,
    /// Tokens of a prompt that are processed at once.
    pub prefill_step: usize,
    /// Report the logits.
    pub logits: bool,
}

impl Default for ClassifyOptions {
    fn default() -> Self {
        ClassifyOptions { labels: Vec::new(), rows: 8, prefill_step: 2048, logits: false }
    }
}

/// What would follow a prompt.
#[derive(Debug, Clone)]
pub struct Classification {
    /// The likeliest candidate.
    pub id: u32,
    /// Natural logarithm of its probability among the candidates.
    pub logprob: f32,
    /// Log-probability of each label, in the order given; empty without labels.
    pub labels: Vec<f32>,
    /// Logits `[V]` of the whole vocabulary, when asked for.
    pub logits: Option<Array>,
}

/// The likeliest next token of each prompt, in the order of the prompts.
///
/// Prompts of similar length are processed together, padded on the right: what follows a token cannot change it.
///
/// # Errors
/// An empty prompt, an id or label outside the vocabulary, an evaluation that fails.
pub fn classify(decoder: &Decoder, prompts: &[Vec<u32>], options: &ClassifyOptions) -> Result<Vec<Classification>> {
    let vocab = decoder.blueprint().vocab;
    for (i, p) in prompts.iter().enumerate() {
        if p.is_empty() {
            return Err(Error::Request(format!("prompt {i} has no tokens")));
        }
    }
    if let Some(id) = prompts.iter().flatten().chain(&options.labels).find(|&&id| i64::from(id) >= i64::from(vocab)) {
        return Err(Error::Request(format!("token id {id} is not in the vocabulary of {vocab}")));
    }
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&i| prompts[i].len());
    let mut out: Vec<Option<Classification>> = vec![None; prompts.len()];
    for batch in order.chunks(options.rows.max(1)) {
        let rows: Vec<&[u32]> = batch.iter().map(|&i| &prompts[i][..]).collect();
        let logits = last_logits(decoder, &rows, options.prefill_step.max(1))?;
        for (row, &i) in batch.iter().enumerate() {
            let logits = mx::catch(|| logits.slice_axis(0, row as i32..row as i32 + 1))?;
            out[i] = Some(judge(&logits, options)?);
        }
    }
    Ok(out.into_iter().flatten().collect())
}

/// Logits [B, V] after the last token of each row; the rows ascend in length.
fn last_logits(decoder: &Decoder, rows: &[&[u32]], step: usize) -> Result<Array> {
    let longest = rows.last().map_or(0, |r| r.len());
    let mut caches = decoder.caches()?;
    let mut ends: Vec<Array> = Vec::with_capacity(rows.len());
    for at in (0..longest).step_by(step) {
        let n = step.min(longest - at);
        let ids: Vec<u32> = rows.iter().flat_map(|r| (at..at + n).map(|t| r.get(t).copied().unwrap_or(0))).collect();
        let ids = Array::from_slice(&ids, [rows.len() as i32, n as i32]);
        let h = mx::catch(|| decoder.hidden(&ids, &mut caches))?;
        // ascending lengths: rows end in order
        while let Some(row) = rows.get(ends.len()).filter(|r| r.len() <= at + n) {
            let (b, t) = (ends.len() as i32, (row.len() - 1 - at) as i32);
            ends.push(mx::catch(|| h.slice_axis(0, b..b + 1).slice_axis(1, t..t + 1))?);
        }
        mx::eval(&ends)?;
        eval_caches(&caches)?;
    }
    Ok(mx::catch(|| decoder.logits(&mx::concatenate(&ends, 0)).squeeze(1))?)
}

/// logits: [1, V]
fn judge(logits: &Array, options: &ClassifyOptions) -> Result<Classification> {
    let whole = options.logits.then(|| logits.squeeze(0));
    if options.labels.is_empty() {
        let all = mx::catch(|| log_softmax(logits))?;
        let id: u32 = mx::catch(|| all.argmax(-1).squeeze(0))?.item()?;
        let logprob = mx::catch(|| all.max(-1).squeeze(0))?.item()?;
        return Ok(Classification { id, logprob, labels: Vec::new(), logits: whole });
    }
    let at = Array::from_slice(&options.labels, [1, options.labels.len() as i32]);
    let labels = mx::catch(|| log_softmax(&mx::take_along_axis(logits, &at, -1)))?.to_vec::<f32>()?;
    // the first of equals, as argmax
    let best = (0..labels.len()).fold(0, |best, i| if labels[i] > labels[best] { i } else { best });
    Ok(Classification { id: options.labels[best], logprob: labels[best], labels, logits: whole })
}
