//! Text generation (`stream_generate`): tokens to text segments, ends of sequence, stop strings, statistics.

use super::language::LanguageModel;
use super::stats::{Clock, Stats};
use super::stop::StopStrings;
use super::tokens::{Token, TokenOptions, Tokens};
use crate::cache::Caches;
use crate::tokenizer::Detokenizer;
use crate::{Error, Result};
use mlx::Array;

/// How text is generated.
#[derive(Default)]
pub struct StreamOptions<'a> {
    /// The step loop: number of tokens, sampling, logits processors, progress of the prompt.
    pub tokens: TokenOptions<'a>,
    /// Texts that end the answer; they and what follows are not part of it.
    pub stop: Vec<String>,
    /// Go on after an end-of-sequence token, as benchmarks do.
    pub ignore_eos: bool,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

impl FinishReason {
    /// As in Python and the OpenAI interface.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// One step of a generation (`GenerationResponse`).
#[derive(Debug, Clone)]
pub struct Response {
    /// The text that became certain with this token, possibly none.
    pub text: String,
    /// The token; the last one may be an end of sequence, which has no text.
    pub token: u32,
    /// Natural logarithm of its probability, when asked for.
    pub logprob: Option<f32>,
    /// Log-probabilities `[V]` of all tokens, when asked for.
    pub logprobs: Option<Array>,
    /// Set on the last response.
    pub finish_reason: Option<FinishReason>,
    pub stats: Stats,
}

/// An iterator of [`Response`]s, one per token.
pub struct TextStream<'a> {
    tokens: Tokens<'a>,
    detokenizer: Option<Detokenizer>,
    stop: StopStrings,
    eos: Vec<u32>,
    max_tokens: Option<usize>,
    clock: Clock,
    done: bool,
}

impl<'a> TextStream<'a> {
    /// Processes the prompt; the first token is then under way. Without a tokenizer all texts are empty.
    ///
    /// # Errors
    /// A prompt that is empty or longer than the model's context, options out of range, a failing evaluation.
    pub fn new(
        lm: &'a LanguageModel,
        prompt: &[u32],
        caches: &'a mut Caches,
        options: StreamOptions<'a>,
    ) -> Result<Self> {
        let StreamOptions { tokens, stop, ignore_eos } = options;
        if tokens.max_tokens == Some(0) {
            return Err(Error::Request("max_tokens must be at least 1".into()));
        }
        if lm.tokenizer.is_none() && stop.iter().any(|s| !s.is_empty()) {
            return Err(Error::Request(format!("stop strings need a tokenizer, {} has none", lm.path.display())));
        }
        lm.check_length(prompt.len())?;
        let eos = if ignore_eos { Vec::new() } else { lm.eos() };
        let max_tokens = tokens.max_tokens;
        let clock = Clock::start(prompt.len());
        Ok(TextStream {
            tokens: Tokens::new(&lm.model.decoder, prompt, caches, tokens)?,
            detokenizer: lm.tokenizer.as_ref().map(|t| t.detokenizer()),
            stop: StopStrings::new(stop),
            eos,
            max_tokens,
            clock,
            done: false,
        })
    }

    /// Counts so far.
    pub fn stats(&self) -> Stats {
        self.clock.stats()
    }

    fn respond(&mut self, token: Token) -> Response {
        self.clock.token();
        let ends = self.eos.contains(&token.id);
        let full = self.max_tokens == Some(self.clock.stats().generation_tokens);
        let mut segment = String::new();
        if let Some(d) = &mut self.detokenizer {
            if !ends {
                segment.push_str(d.push(token.id));
            }
            if ends || full {
                segment.push_str(d.finish());
            }
        }
        let (mut text, stopped) = self.stop.push(&segment);
        if (ends || full) && !stopped {
            text.push_str(&self.stop.finish());
        }
        let finish_reason = match (ends || stopped, full) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        self.done = finish_reason.is_some();
        let Token { id, logprob, logprobs } = token;
        Response { text, token: id, logprob, logprobs, finish_reason, stats: self.stats() }
    }
}

impl Iterator for TextStream<'_> {
    type Item = Result<Response>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.tokens.next()? {
            Ok(token) => Some(Ok(self.respond(token))),
            Err(e) => {
                self.done = true;
                Some(Err(e))
            }
        }
    }
}
