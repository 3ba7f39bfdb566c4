//! Feed-forward parts: what happens to each token by itself.

pub mod activation;
mod dual;
mod experts;
mod gegelu;
mod layer_input;
mod linear;
mod mlp;
mod moe;
mod xielu;

pub use experts::Experts;
pub use mlp::Mlp;
pub use moe::{Moe, route};

use crate::decoder::{Around, Registry, Step};
use mlx::Array;
use mlx::nn::Module;

/// x [B, L, D] -> [B, L, D], token by token.
pub trait Ffn: Module {
    fn forward(&self, x: &Array, step: &Step) -> Array;

    /// `x + forward(rms_norm(x))` of one token per row in few kernels; `None` where there are none for this part.
    fn fused(&self, _x: &Array, _around: &Around<'_>) -> Option<Array> {
        None
    }

    /// Weights that [`fused`](Self::fused) reads first.
    fn first_weights(&self) -> [Option<&Array>; 2] {
        [None, None]
    }
}

/// All ffns of this crate.
pub fn register(r: &mut Registry) {
    r.ffn(mlp::build);
    r.ffn_with(moe::build);
    r.ffn_with(dual::build);
    r.ffn(layer_input::build);
    r.ffn(xielu::build);
    r.ffn(gegelu::build);
    r.ffn(linear::build);
    r.ffn(linear::build_skip);
}
