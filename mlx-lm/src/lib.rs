//! Language models on MLX.
pub mod config;
pub mod error;
pub mod hub;
pub mod weights;
pub use error::{Error, Result};
