//! Models back to disk: quantised, dequantised, fused, in another float type (`mlx_lm.convert`).

mod recipe;
mod save;

pub use recipe::{Recipe, quantize};
pub use save::save;
