//! Language models on MLX.
pub mod bench;
pub mod blueprint;
pub mod cache;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod error;
pub mod families;
pub mod ffn;
pub mod generate;
pub mod hub;
pub mod mixers;
pub mod perplexity;
pub mod tokenizer;
pub mod weights;
pub use decoder::Model;
pub use error::{Error, Result};
pub use generate::{LanguageModel, Response, StreamOptions, load, load_with};
