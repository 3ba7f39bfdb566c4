//! Generation: prompt to tokens. The step loop with its one-token look-ahead, samplers and logits processors.
//!
//! Text (detokenising, stop strings, statistics) is in [`stream`]; many sequences at once are in `batch`.

mod processors;
mod sampler;
mod tokens;

pub use processors::{Processor, Processors};
pub use sampler::Sampler;
pub use tokens::{Token, TokenOptions, Tokens, prefill};
