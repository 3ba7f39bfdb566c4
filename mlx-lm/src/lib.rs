//! Language models on MLX.
pub mod config;
pub mod error;
pub mod weights;
pub use error::{Error, Result};
