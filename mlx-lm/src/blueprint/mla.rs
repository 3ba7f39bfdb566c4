//! Multi-head latent attention as data (DeepSeek-V2, arXiv:2405.04434).

use super::{CacheKind, Rope};

/// Attention over keys and values that are expanded from one latent row per token; the cache holds the latents.
#[derive(Debug, Clone)]
pub struct Mla {
    pub hidden: i32,
    pub heads: i32,
    /// Width of the query's own bottleneck; `None` projects directly.
    pub q_rank: Option<i32>,
    pub kv_rank: i32,
    /// Width of the part of a head without positions.
    pub nope_dim: i32,
    /// Width of the rotated part, shared by all heads on the key side.
    pub rope_dim: i32,
    pub v_dim: i32,
    pub bias: bool,
    /// Epsilon of the bottlenecks' norms.
    pub eps: f32,
    pub scale: f32,
    pub rope: Option<Rope>,
}

crate::spec!(Mla, "mla", |_| CacheKind::Kv);
