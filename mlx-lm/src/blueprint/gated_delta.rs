//! Delta rules with a gate as data: Gated DeltaNet (arXiv:2412.06464) and Kimi Delta Attention (arXiv:2510.26692).

use super::CacheKind;

/// The heads of a delta rule: value head h reads with the query and key of head h / (value_heads / key_heads).
#[derive(Debug, Clone)]
pub struct DeltaHeads {
    pub hidden: i32,
    pub key_heads: i32,
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// Taps of the causal convolutions on q, k and v; `None` has none.
    pub conv: Option<i32>,
    pub conv_bias: bool,
    /// Writes reach twice as far: beta in (0, 2) in place of (0, 1).
    pub negative_eigenvalues: bool,
    /// Of the norm over each head.
    pub eps: f32,
}

impl DeltaHeads {
    /// Heads (of keys, of values), their widths, and taps of convolutions without a bias.
    pub fn new(hidden: i32, heads: [i32; 2], widths: [i32; 2], conv: i32, eps: f32) -> Self {
        let ([key_heads, value_heads], [key_dim, value_dim]) = (heads, widths);
        let (conv, conv_bias, negative_eigenvalues) = (Some(conv), false, false);
        DeltaHeads { hidden, key_heads, value_heads, key_dim, value_dim, conv, conv_bias, negative_eigenvalues, eps }
    }
}

/// Linear attention whose state forgets by a gate per head and is written by the delta rule.
#[derive(Debug, Clone)]
pub struct GatedDelta {
    pub heads: DeltaHeads,
    pub layout: GatedDeltaLayout,
    /// Outputs are gated by SiLU of a projection of the input.
    pub gate: bool,
}

/// How the input projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatedDeltaLayout {
    /// `q_proj`, `k_proj`, `v_proj` with `q_conv1d`, `k_conv1d`, `v_conv1d`; `a_proj`, `b_proj`, `g_proj`, `o_norm`,
    /// `o_proj` (olmo_hybrid, the linear-attention library).
    Separate,
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a` with one `conv1d`; `norm`, `out_proj` (qwen3_5).
    Joined,
    /// As [`Joined`](Self::Joined), with `in_proj_qkvz` and `in_proj_ba`, grouped by key head (qwen3_next).
    Packed,
}

/// Linear attention whose state forgets by a gate per key dimension and is written by the delta rule.
#[derive(Debug, Clone)]
pub struct Kda {
    pub heads: DeltaHeads,
    pub qkv: QkvNames,
    /// Decays in log space are this times sigmoid(e^A (f + dt_bias)), in place of -e^A softplus(f + dt_bias).
    pub lower_bound: Option<f32>,
    /// f: one number per value head and key dimension.
    pub decay: Projection,
    /// Outputs are gated by its sigmoid.
    pub gate: Projection,
}

/// Leaf names of the projections to queries, keys and values and of their convolutions.
#[derive(Debug, Clone, PartialEq)]
pub enum QkvNames {
    /// `q_proj`, `k_proj`, `v_proj`, and the convolutions of each.
    Separate([String; 3]),
    /// One matrix and one convolution for all, rows of q, then k, then v.
    Joined { projection: String, conv: String },
}

/// A projection, whole or through a bottleneck.
#[derive(Debug, Clone, PartialEq)]
pub enum Projection {
    /// Leaf name of one matrix.
    Full(String),
    /// Leaf names of two matrices, the width between them, and whether the second has a bias.
    LowRank { first: String, second: String, rank: i32, bias: bool },
}

crate::spec!(GatedDelta, "gated_deltanet", |s| CacheKind::Slots(s.heads.slots(s.layout == GatedDeltaLayout::Separate)));
crate::spec!(Kda, "kda", |s| CacheKind::Slots(s.heads.slots(matches!(s.qkv, QkvNames::Separate(_)))));

impl DeltaHeads {
    /// Slots for the state and the tails of the convolutions.
    fn slots(&self, separate: bool) -> usize {
        match self.conv {
            None => 1,
            Some(_) if separate => 4,
            Some(_) => 2,
        }
    }
    /// Widths of all queries (or keys) and of all values.
    pub fn widths(&self) -> (i32, i32) {
        (self.key_heads * self.key_dim, self.value_heads * self.value_dim)
    }
}

impl QkvNames {
    /// `q_proj`, .. with `q_conv1d`, ..
    pub fn separate() -> Self {
        QkvNames::Separate(["q", "k", "v"].map(|p| format!("{p}_conv1d")))
    }
}

impl Projection {
    /// Two matrices without biases.
    pub fn low_rank(first: &str, second: &str, rank: i32) -> Self {
        Projection::LowRank { first: first.into(), second: second.into(), rank, bias: false }
    }
}
