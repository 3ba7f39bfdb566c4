//! Sequence mixers: everything that moves information between tokens, one file each.
//!
//! A mixer asks its [`Leaves`](crate::weights::Leaves) for bare leaf names and its cache for what its blueprint part
//! declared. It knows nothing of families, prefixes or checkpoint formats.

mod attention;
mod beside;
mod block_index;
mod blocks;
mod compressed;
pub mod conv;
mod conv_gate;
mod delta;
mod deltanet;
mod gate;
mod gated_delta;
mod gla;
pub mod gsa;
pub mod heads;
pub mod history;
mod indexer;
mod kda;
mod kinds;
mod latent;
pub mod lightning;
mod looped;
mod mamba;
mod mamba2;
mod mla;
pub mod moba;
pub mod nsa;
mod plamo_mamba;
mod pool;
pub mod retention;
mod rg_lru;
pub mod rope;
mod rounding;
pub mod rwkv7;
mod short_conv;

pub use attention::Attention;
pub use gated_delta::GatedDelta;
pub use kda::Kda;
pub use mla::Mla;

pub use crate::parts::Mixer;

use crate::parts::Registry;

/// All mixers of this crate.
pub fn register(r: &mut Registry) {
    r.mixer(attention::build);
    r.mixer(compressed::build);
    r.mixer(mamba::build);
    r.mixer(mamba2::build);
    r.mixer_with(beside::build);
    r.mixer(short_conv::build);
    r.mixer(looped::build);
    r.mixer(conv_gate::build);
    r.mixer(gated_delta::build);
    r.mixer(kda::build);
    r.mixer(lightning::build);
    r.mixer(mla::build);
    r.mixer(rwkv7::build);
    r.mixer(rg_lru::build);
    r.mixer(plamo_mamba::build);
    r.mixer(rwkv7::build_bare);
    r.mixer(rwkv7::build_channel_mix);
    r.mixer(gla::build);
    r.mixer(retention::build);
    r.mixer(deltanet::build);
    r.mixer(gsa::build);
    r.mixer(nsa::build);
    r.mixer(moba::build);
    kinds::register(r);
}
