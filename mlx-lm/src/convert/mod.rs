//! Models back to disk: quantised, dequantised, fused, in another float type (`mlx_lm.convert`).

mod quirks;
mod recipe;
mod save;

pub use crate::weights::MAX_SHARD_BYTES;
pub use recipe::{Recipe, Rule, dequantize, quantize};
pub use save::{check_new, save};
