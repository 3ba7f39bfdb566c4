//! GGUF files: the header and metadata ([`Gguf`]), block formats ([`blocks`]), the exact mapping to MLX's packed
//! forms ([`affine`]), and the mapping of names and metadata to Hugging Face's ([`model`], tables in [`arch`]).
pub mod affine;
pub mod arch;
pub mod blocks;
mod config;
mod fixes;
mod meta;
pub mod model;
mod names;
pub mod options;
mod parse;
mod tokenizer;
mod types;
mod value;

pub use parse::{Gguf, GgufTensor};
pub use types::GgmlType;
pub use value::{Array, Value};
