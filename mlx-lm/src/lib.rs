//! Language models on MLX.
pub mod error;
pub use error::{Error, Result};
