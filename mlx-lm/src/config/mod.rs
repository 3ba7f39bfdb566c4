//! Hugging Face `config.json` → one normalised [`Config`].
//!
//! Lives here: reading the file as Python reads it (bare `NaN`/`Infinity`), flattening of `text_config`, the eos
//! override of `generation_config.json`, model type aliases, the many spellings of rotary embeddings ([`rope`]) and
//! of quantisation ([`quant`]). Does not live here: what a family makes of its keys, and defaults of families.
mod json;
mod normal;
pub mod quant;
pub mod rope;
mod section;

pub use json::{parse as parse_json, read as read_json};
pub use normal::Config;
pub use quant::{CodedTensor, ForeignQuant, QuantConfig, QuantMode, QuantParams, Quantization};
pub use rope::{RopeConfig, RopeKind, Yarn};
pub use section::{Fallback, Section};
