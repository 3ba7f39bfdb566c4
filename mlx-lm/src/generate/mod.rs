//! Generation: prompt to tokens. The step loop with its one-token look-ahead, samplers and logits processors.
//!
//! Text (detokenising, stop strings, statistics) is in [`TextStream`]; many sequences at once are in [`BatchGenerator`] and [`batch_generate`];
//! the next token alone of many prompts in [`classify`].

mod batch;
mod classify;
mod decoding;
mod language;
mod processors;
mod sampler;
mod session;
mod stats;
mod stop;
mod stream;
mod tokens;

pub use batch::{
    BatchGenerator, BatchOutput, BatchRequest, BatchStats, BatchStep, BatchToken, PromptProgress, RowState,
    batch_generate,
};
pub use classify::{Classification, ClassifyOptions, classify};
pub use language::{LanguageModel, gguf_options, load, load_with, tokenizer};
pub use processors::{Processor, Processors};
pub use sampler::Sampler;
pub use session::Session;
pub use stats::{Clock, Stats};
pub use stop::StopStrings;
pub use stream::{FinishReason, Response, StreamOptions, TextStream};
pub use tokens::{Token, TokenOptions, Tokens, prefill};
