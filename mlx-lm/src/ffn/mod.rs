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

pub use crate::parts::Ffn;

use crate::parts::Registry;

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
