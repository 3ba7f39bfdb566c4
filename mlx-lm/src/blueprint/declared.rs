//! Layers that a config declares by the name of their mixer's kind.

use crate::config::{RopeConfig, Section};

/// `h += mixer(norm(h))`, `h += mlp(norm(h))` with a mixer of this kind, bare. Where its leaves lie, and their sizes, are
/// found in the checkpoint.
#[derive(Debug, Clone)]
pub struct Declared {
    /// As [`kind_name`] spells it.
    pub kind: String,
    pub hidden: i32,
    /// Width of the MLP.
    pub inner: i32,
    pub heads: i32,
    pub head_dim: Option<i32>,
    pub eps: f32,
    pub rope: RopeConfig,
    /// The config's keys under those of this layer in `mixer_params`.
    pub settings: Section,
}

/// Kinds that this crate's registry knows.
pub const KINDS: [&str; 13] = [
    "deltanet",
    "full_attention",
    "gated_deltanet",
    "gla",
    "gsa",
    "kda",
    "lightning",
    "mamba2",
    "mla",
    "moba",
    "nsa",
    "retnet",
    "rwkv7",
];

/// A kind's name in one spelling: lower case, `_`, no other name for the same kind.
pub fn kind_name(name: &str) -> String {
    let plain = name.trim().to_lowercase().replace(['-', ' '], "_");
    match plain.as_str() {
        "attention" | "softmax_attention" => "full_attention".into(),
        "delta_net" => "deltanet".into(),
        "gated_delta_net" => "gated_deltanet".into(),
        "retention" => "retnet".into(),
        _ => plain,
    }
}
