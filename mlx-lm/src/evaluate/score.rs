//! The two ways to ask a model: how likely is this text, and what comes next.

use crate::cache::{Caches, trim};
use crate::decoder::{cross_entropy, eval_caches};
use crate::generate::{LanguageModel, StreamOptions, TokenOptions};
use crate::{Error, Result};
use mlx::{self as mx, Array};

/// How likely a completion is.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Completion {
    /// Sum over its tokens, natural logarithm.
    pub logprob: f64,
    pub tokens: usize,
    /// Whether greedy decoding would have given it.
    pub greedy: bool,
}

/// Log-probabilities of completions of one context (`MLXLM.loglikelihood`): the context is processed once, each
/// completion continues a copy of its cache.
///
/// A completion is tokenised together with its context, as in Python; where the joint ids do not start with those of the
/// context, it counts from where they differ.
///
/// # Errors
/// A context without tokens, a completion without tokens, more than the model's context holds.
pub fn loglikelihood(lm: &LanguageModel, context: &str, completions: &[String]) -> Result<Vec<Completion>> {
    let prefix = lm.text_ids(context)?;
    let joint = completions
        .iter()
        .map(|c| {
            let ids = lm.text_ids(&format!("{context}{c}"))?;
            lm.check_length(ids.len())?;
            Ok(ids)
        })
        .collect::<Result<Vec<_>>>()?;
    // what all of them share, without the last id: its logits predict the first one that differs
    let shared = joint.iter().map(|ids| common(&prefix, ids)).min().unwrap_or(0);
    if shared == 0 {
        return Err(Error::Request("a context needs at least one token".into()));
    }
    let (mut caches, mut held) = (lm.caches()?, 0);
    let decoder = &lm.model.decoder;
    while held < shared - 1 {
        let to = (held + PREFILL).min(shared - 1);
        let ids = Array::from_slice(&prefix[held..to], [1, (to - held) as i32]);
        mx::catch(|| decoder.hidden(&ids, &mut caches))?;
        eval_caches(&caches)?;
        held = to;
    }
    joint
        .iter()
        .map(|ids| {
            let from = common(&prefix, ids);
            if ids.len() <= from {
                return Err(Error::Request("a completion has no tokens".into()));
            }
            let mut own: Caches = caches.clone();
            continued(lm, &mut own, &ids[shared - 1..], from - shared)
        })
        .collect()
}

/// Ids of a context that are processed at once.
const PREFILL: usize = 512;

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Scores ids[1..], of which the first `skip` do not count, after what the caches hold.
fn continued(lm: &LanguageModel, caches: &mut Caches, ids: &[u32], skip: usize) -> Result<Completion> {
    let l = ids.len() as i32 - 1;
    let (loss, best) = mx::catch(|| {
        let logits = lm.model.decoder.forward(&Array::from_slice(&ids[..ids.len() - 1], [1, l]), caches);
        let targets = Array::from_slice(&ids[1..], [1, l]);
        (cross_entropy(&logits, &targets), logits.argmax(-1).eq(&targets))
    })?;
    let (loss, best) = (loss.to_vec::<f32>()?, best.to_vec::<bool>()?);
    Ok(Completion {
        logprob: -loss[skip..].iter().map(|&l| f64::from(l)).sum::<f64>(),
        tokens: loss.len() - skip,
        greedy: best[skip..].iter().all(|&b| b),
    })
}

/// Greedy answers to prompts, each up to the first of `until` or an end of sequence (`MLXLM.generate_until`). What a
/// prompt shares with the one before it is not processed again.
pub fn generate_until(
    lm: &LanguageModel,
    prompts: &[Vec<u32>],
    until: &[String],
    max_tokens: usize,
    each: &mut dyn FnMut(usize, &str),
) -> Result<Vec<String>> {
    let mut caches = lm.caches()?;
    let mut held: Vec<u32> = Vec::new();
    let mut answers = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.iter().enumerate() {
        let keep = common(&held, prompt).min(prompt.len().saturating_sub(1));
        let surplus = (held.len() - keep) as i32;
        let keep = if surplus == 0 || trim(&mut caches, surplus) == surplus { keep } else { 0 };
        if keep == 0 {
            caches = lm.caches()?;
        }
        let tokens = TokenOptions { max_tokens: Some(max_tokens), ..TokenOptions::default() };
        let options = StreamOptions { tokens, stop: until.to_vec(), ..StreamOptions::default() };
        let mut text = String::new();
        for r in lm.stream(&prompt[keep..], &mut caches, options)? {
            text.push_str(&r?.text);
        }
        // how many tokens of the answer are in the cache depends on how it ended
        let offset = caches.iter().map(|c| c.offset()).max().unwrap_or(0) as usize;
        let extra = offset.saturating_sub(prompt.len()) as i32;
        held = match offset >= prompt.len() && (extra == 0 || trim(&mut caches, extra) == extra) {
            true => prompt.clone(),
            false => {
                caches = lm.caches()?;
                Vec::new()
            }
        };
        each(i, &text);
        answers.push(text);
    }
    Ok(answers)
}
