//! Gated DeltaNet as data (arXiv:2412.06464).

use super::CacheKind;

/// Linear attention whose state forgets by a gate per head and is written by the delta rule.
#[derive(Debug, Clone)]
pub struct GatedDelta {
    pub hidden: i32,
    pub key_heads: i32,
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// Taps of the causal convolution on q, k and v.
    pub conv: i32,
    pub eps: f32,
    pub layout: GatedDeltaLayout,
}

/// How the input projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatedDeltaLayout {
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a` (qwen3_5).
    Separate,
    /// `in_proj_qkvz` and `in_proj_ba`, grouped by key head (qwen3_next).
    Packed,
}

crate::spec!(GatedDelta, "gated_deltanet", |_| CacheKind::Slots(2));
