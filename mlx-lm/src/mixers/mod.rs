//! Sequence mixers: everything that moves information between tokens, one file each.
//!
//! A mixer asks its [`Leaves`](crate::weights::Leaves) for bare leaf names and its cache for what its blueprint part
//! declared. It knows nothing of families, prefixes or checkpoint formats.

mod attention;
pub mod rope;

pub use attention::Attention;

use crate::cache::Cache;
use crate::decoder::{Registry, Step};
use mlx::Array;
use mlx::nn::Module;

/// x [B, L, D] -> [B, L, D], with what the layer remembers.
pub trait Mixer: Module {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array;
}

/// All mixers of this crate.
pub fn register(r: &mut Registry) {
    r.mixer(attention::build);
}
