//! The step loop: one token after the other, the next one already under way (`generate_step`).

use super::processors::{Processor, log_softmax};
use super::sampler::Sampler;
use crate::cache::{self, Caches, KvQuant};
use crate::decoder::{Decoder, eval_caches};
use crate::{Error, Result};
use mlx::{self as mx, Array, memory};

/// How tokens are generated.
pub struct TokenOptions<'a> {
    /// `None` goes on until the caller stops.
    pub max_tokens: Option<usize>,
    pub sampler: Sampler,
    pub processors: Vec<Box<dyn Processor + 'a>>,
    /// Tokens of the prompt that are processed at once.
    pub prefill_step: usize,
    /// Pack keys and values.
    pub kv_quant: Option<KvQuant>,
    /// Report the log-probability of each token.
    pub logprobs: bool,
    /// Called with (done, total) prompt tokens.
    pub progress: Option<Box<dyn FnMut(usize, usize) + 'a>>,
    /// Called with the caches when they hold all of the prompt but its last token: where another answer could start.
    pub at_prompt: Option<Box<dyn FnOnce(&Caches) + 'a>>,
}

impl Default for TokenOptions<'_> {
    fn default() -> Self {
        TokenOptions {
            max_tokens: Some(256),
            sampler: Sampler::greedy(),
            processors: Vec::new(),
            prefill_step: 2048,
            kv_quant: None,
            logprobs: false,
            progress: None,
            at_prompt: None,
        }
    }
}

/// One generated token.
#[derive(Debug, Clone)]
pub struct Token {
    pub id: u32,
    /// Natural logarithm of its probability, when asked for.
    pub logprob: Option<f32>,
    /// Log-probabilities `[V]` of all tokens at this step, when asked for.
    pub logprobs: Option<Array>,
}

/// Tokens every so many of which unused buffers are given back.
const CLEAR_EVERY: usize = 256;

/// Processes `ids` in chunks and keeps only the caches' state.
pub fn prefill(
    decoder: &Decoder,
    ids: &[u32],
    caches: &mut Caches,
    step: usize,
    progress: &mut dyn FnMut(usize, usize),
    total: usize,
) -> Result<()> {
    let mut done = 0;
    for chunk in ids.chunks(step.max(1)) {
        mx::catch(|| decoder.hidden(&row(chunk), caches))?;
        eval_caches(caches)?;
        done += chunk.len();
        progress(done, total);
        memory::clear_cache();
    }
    Ok(())
}

fn row(ids: &[u32]) -> Array {
    Array::from_slice(ids, [1, ids.len() as i32])
}

/// A token under way: its id [1] and, when asked for, log-probabilities [1, V].
struct Pending {
    id: Array,
    logprobs: Option<Array>,
}

/// An iterator of generated tokens. End-of-sequence ids are tokens like others here: the caller stops.
pub struct Tokens<'a> {
    decoder: &'a Decoder,
    caches: &'a mut Caches,
    options: TokenOptions<'a>,
    /// All ids so far; kept only for processors.
    history: Vec<u32>,
    pending: Option<Pending>,
    produced: usize,
}

impl<'a> Tokens<'a> {
    /// Processes the prompt; the first token is then under way.
    ///
    /// # Errors
    /// An empty prompt, options out of range, or an evaluation that fails.
    pub fn new(
        decoder: &'a Decoder,
        prompt: &[u32],
        caches: &'a mut Caches,
        mut options: TokenOptions<'a>,
    ) -> Result<Self> {
        let vocab = decoder.blueprint().vocab;
        options.sampler.check(vocab as usize)?;
        decoder.check_caches(caches)?;
        let Some((last, first)) = prompt.split_last() else {
            return Err(Error::Request("the prompt has no tokens".into()));
        };
        if let Some(id) = prompt.iter().find(|&&id| id as i64 >= vocab as i64) {
            return Err(Error::Request(format!("token id {id} is not in the vocabulary of {vocab}")));
        }
        let total = prompt.len();
        let mut progress = options.progress.take().unwrap_or_else(|| Box::new(|_, _| {}));
        progress(0, total);
        let mut done = 0;
        for chunk in first.chunks(options.prefill_step.max(1)) {
            prefill(decoder, chunk, caches, options.prefill_step, &mut |n, _| progress(done + n, total), total)?;
            done += chunk.len();
            if let Some(q) = options.kv_quant {
                cache::quantize(caches, q)?;
            }
        }
        if let Some(f) = options.at_prompt.take() {
            f(caches);
        }
        let history = if options.processors.is_empty() { Vec::new() } else { prompt.to_vec() };
        let mut tokens = Tokens { decoder, caches, options, history, pending: None, produced: 0 };
        if tokens.options.max_tokens != Some(0) {
            tokens.pending = Some(tokens.step(row(&[*last]))?);
        } else {
            prefill(decoder, &[*last], tokens.caches, 1, &mut |_, _| {}, total)?;
            if let Some(q) = tokens.options.kv_quant {
                cache::quantize(tokens.caches, q)?;
                eval_caches(tokens.caches)?;
            }
        }
        progress(total, total);
        Ok(tokens)
    }

    /// Builds one step on ids [1, 1] and starts it.
    fn step(&mut self, ids: Array) -> Result<Pending> {
        let (decoder, caches, options, history) = (self.decoder, &mut *self.caches, &mut self.options, &self.history);
        let pending = mx::catch(|| {
            let mut logits = decoder.forward_last(&ids, caches);
            for p in &mut options.processors {
                logits = p.apply(history, logits);
            }
            let wants = options.logprobs || !options.sampler.is_greedy();
            let logprobs = wants.then(|| log_softmax(&logits));
            let id = options.sampler.sample(logprobs.as_ref().unwrap_or(&logits));
            Pending { id, logprobs: logprobs.filter(|_| options.logprobs) }
        })?;
        if let Some(q) = self.options.kv_quant {
            cache::quantize(self.caches, q)?;
        }
        mx::async_eval(std::iter::once(&pending.id).chain(&pending.logprobs))?;
        Ok(pending)
    }

    fn advance(&mut self) -> Result<Option<Token>> {
        let Some(current) = self.pending.take() else { return Ok(None) };
        let more = self.options.max_tokens.is_none_or(|max| self.produced + 1 < max);
        let needs_id = !self.options.processors.is_empty();
        if needs_id {
            self.history.push(current.id.item()?);
        }
        if more {
            // the next step starts before this token is read
            let ids = mx::catch(|| current.id.reshape([1, 1]))?;
            self.pending = Some(self.step(ids)?);
        }
        let id = current.id.item()?;
        let (mut logprob, mut row) = (None, None);
        if let Some(all) = current.logprobs {
            let all = mx::catch(|| all.squeeze(0))?;
            logprob = Some(mx::catch(|| all.slice_axis(0, id as i32..id as i32 + 1))?.item()?);
            row = Some(all);
        }
        self.produced += 1;
        if self.produced.is_multiple_of(CLEAR_EVERY) {
            memory::clear_cache();
        }
        Ok(Some(Token { id, logprob, logprobs: row }))
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<Token>;
    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance().transpose();
        if matches!(result, Some(Err(_))) {
            self.pending = None;
        }
        result
    }
}
