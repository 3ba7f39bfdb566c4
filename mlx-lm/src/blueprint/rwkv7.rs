//! RWKV-7 as data (arXiv:2503.14456).

use super::{Activation, CacheKind};

/// Time mixing: a matrix-valued state that forgets per key dimension and takes out what it read under one key before it
/// writes under another.
#[derive(Debug, Clone)]
pub struct Rwkv7 {
    pub hidden: i32,
    pub heads: i32,
    /// Width of all values together; keys have the width of the model.
    pub values: i32,
    /// Whether this is the first layer, whose values later ones are mixed with.
    pub first: bool,
    /// Widths of the low-rank projections to decays, learning rates, value mixing and gates.
    pub ranks: Rwkv7Ranks,
    pub unit: UnitNorm,
    /// Of the norm over each head's output.
    pub eps: f32,
}

/// Low-rank widths of [`Rwkv7`], under the names of their leaves: `w_lora`, `a_lora`, `v_lora`, `g_lora`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rwkv7Ranks {
    pub w: i32,
    pub a: i32,
    pub v: i32,
    pub g: i32,
}

/// How a vector is brought to length 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UnitNorm {
    /// x / max(|x|, eps)
    AtLeast(f32),
    /// x / sqrt(|x|^2 + eps)
    Root(f32),
}

/// The recurrence of [`Rwkv7`] between seven plain projections, with decays `-exp(decay(x))` (composed configs).
#[derive(Debug, Clone)]
pub struct Rwkv7Bare {
    pub hidden: i32,
    pub heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
}

/// Channel mixing: value(act(key(x shifted by a token))).
#[derive(Debug, Clone)]
pub struct ChannelMix {
    pub hidden: i32,
    pub inner: i32,
    pub activation: Activation,
    /// Which of the layer's slots keeps the last token.
    pub slot: usize,
}

crate::spec!(Rwkv7, "rwkv7", |_| CacheKind::Slots(2));
crate::spec!(Rwkv7Bare, "rwkv7_bare", |_| CacheKind::Slots(1));
crate::spec!(ChannelMix, "rwkv7_channel_mix", |m| CacheKind::Slots(m.slot + 1));
