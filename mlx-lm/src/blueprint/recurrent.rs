//! Recurrent mixers as data.

use super::CacheKind;

/// A gated short convolution (lfm2).
#[derive(Debug, Clone)]
pub struct ShortConv {
    pub hidden: i32,
    pub kernel: i32,
    pub bias: bool,
}

crate::spec!(ShortConv, "conv", |_| CacheKind::Slots(1));

/// Mamba-2: state space duality.
#[derive(Debug, Clone)]
pub struct Mamba2 {
    pub hidden: i32,
    pub heads: i32,
    pub head_dim: i32,
    pub state: i32,
    /// Heads of a group share B and C: head h uses group h / (heads / groups).
    pub groups: i32,
    pub kernel: i32,
    pub bias: bool,
    pub conv_bias: bool,
    /// Bounds of the time steps.
    pub dt_limit: (f32, f32),
    pub eps: f32,
    /// The gated norm over each group instead of all channels.
    pub norm_per_group: bool,
    /// RMSNorm(y silu(z)) (published) instead of RMSNorm(y) silu(z).
    pub gate_first: bool,
}

crate::spec!(Mamba2, "mamba2", |_| CacheKind::Slots(2));
