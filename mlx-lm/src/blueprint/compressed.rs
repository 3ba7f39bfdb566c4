//! Attention and residual streams of DeepSeek-V4.1 as data.

use super::{CacheKind, Norm, Part, Rope};

/// Softmax attention of all heads over one row per token, which is key and value: those in a sliding window, and beside
/// them groups of tokens pooled into one row each, of which every query sees a chosen few.
///
/// A layer takes pooled rows, and the choice, from the last one that makes them. Its cache is the window; that of
/// a layer that makes rows is a list: the window, rows with their index keys, the group that is still open.
#[derive(Debug, Clone)]
pub struct CompressedAttention {
    pub hidden: i32,
    pub heads: i32,
    pub head_dim: i32,
    pub q_rank: i32,
    /// Rotation of the last features of queries and rows, and back on the output.
    pub rope: Rope,
    pub eps: f32,
    pub window: i32,
    /// The output projection is one of this rank per group of heads, then one over all groups.
    pub out_groups: i32,
    pub out_rank: i32,
    pub pool: Option<Pool>,
}

/// The pooled rows that a layer sees.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Tokens per row; 1 pools nothing.
    pub ratio: i32,
    /// Whether this layer makes rows.
    pub makes: bool,
    /// How this layer chooses rows.
    pub chooses: Option<PoolIndexer>,
}

/// Small heads that score pooled rows.
#[derive(Debug, Clone)]
pub struct PoolIndexer {
    pub heads: i32,
    pub head_dim: i32,
    /// Rows that a query sees.
    pub top_k: i32,
    /// This layer's scores leave to later ones only the best blocks of rows: how many, of how many rows.
    pub candidates: Option<(i32, i32)>,
}

crate::spec!(CompressedAttention, "compressed_attention", |a| {
    let window = CacheKind::TokenWindow { size: a.window };
    match &a.pool {
        Some(p) if p.makes => CacheKind::List(vec![window, CacheKind::Kept, CacheKind::OpenGroup]),
        _ => window,
    }
});

/// Several residual streams [B, L, n, D], which layers read and write by mixes of their own (hyper-connections,
/// arXiv:2409.19606, with doubly stochastic mixes): made before the layers, collapsed after them.
#[derive(Debug, Clone)]
pub struct HyperStreams {
    pub streams: i32,
}

/// A mixer and an ffn over [`HyperStreams`].
///
/// Leaves: `input_layernorm`, `self_attn`, `post_attention_layernorm`, `mlp`; `attn_hc` and `ffn_hc` with `fn`, `base`,
/// `scale`.
#[derive(Debug, Clone)]
pub struct HyperLayer {
    pub hidden: i32,
    pub streams: i32,
    pub norm: Norm,
    pub mixer: Part,
    pub ffn: Part,
    /// Rounds that make the mixes doubly stochastic (Sinkhorn).
    pub rounds: i32,
    /// Added to mixes and to their sums.
    pub eps: f32,
}

crate::spec!(HyperStreams, "hyper_streams");
crate::spec!(HyperLayer, "hyper_layer", |l| l.mixer.cache());
