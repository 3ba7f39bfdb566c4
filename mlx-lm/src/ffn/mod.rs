//! Feed-forward parts: what happens to each token by itself.

pub mod activation;
mod experts;
mod mlp;
mod moe;

pub use experts::Experts;
pub use mlp::Mlp;
pub use moe::{Moe, route};

use crate::decoder::{Registry, Step};
use mlx::Array;
use mlx::nn::Module;

/// x [B, L, D] -> [B, L, D], token by token.
pub trait Ffn: Module {
    fn forward(&self, x: &Array, step: &Step) -> Array;
}

/// All ffns of this crate.
pub fn register(r: &mut Registry) {
    r.ffn(mlp::build);
    r.ffn_with(moe::build);
}
