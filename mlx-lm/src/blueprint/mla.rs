//! Multi-head latent attention as data (DeepSeek-V2, arXiv:2405.04434).

use super::{CacheKind, OutputGate, QueryScale, Rope};

/// Attention over keys and values that are expanded from one latent row per token.
///
/// The cache holds latents as keys and rotated key rows as values, as Python mlx-lm's does; without a rotated part the
/// latent is all that is kept. With an indexer the cache is a list: these, and the indexer's keys.
#[derive(Debug, Clone)]
pub struct Mla {
    pub hidden: i32,
    pub heads: i32,
    /// Width of the query's own bottleneck; `None` projects directly.
    pub q_rank: Option<i32>,
    pub kv_rank: i32,
    /// Width of the part of a head without positions.
    pub nope_dim: i32,
    /// Width of the rotated part, shared by all heads on the key side; 0 has none.
    pub rope_dim: i32,
    pub v_dim: i32,
    pub bias: bool,
    /// Epsilon of the bottlenecks' norms; `None` has no norms.
    pub eps: Option<f32>,
    pub scale: f32,
    pub rope: Option<Rope>,
    pub layout: MlaLayout,
    /// Leaf name of the output projection.
    pub o: String,
    pub gate: Option<OutputGate>,
    /// Factor on the queries (longcat_flash).
    pub q_factor: f32,
    /// Factor on the latents after their norm (longcat_flash).
    pub kv_factor: f32,
    /// A factor on queries that grows with the position (mistral4).
    pub query_scale: Option<QueryScale>,
    /// Keys further back than this are not seen.
    pub window: Option<i32>,
    /// Chooses the keys that are attended to; needs `q_rank`.
    pub indexer: Option<Indexer>,
}

/// How the leaves of [`Mla`] are named and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlaLayout {
    /// DeepSeek's names with `kv_b_proj` cut into `embed_q` [H, rank, nope] and `unembed_out` [H, v, rank] (Python mlx-lm).
    Absorbed,
    /// DeepSeek's names as published: `kv_b_proj`, whose rows are nope keys, then values, head by head.
    Joined,
    /// `q_proj.{0,1,2}` (or `q_proj`), `k_rope`, `kv_proj.{0,1,2}`, the last as `kv_b_proj` (flash-linear-attention).
    Sequential,
}

/// The lightning indexer of DeepSeek-V3.2: small heads that score all keys, of which the best are attended to.
#[derive(Debug, Clone)]
pub struct Indexer {
    pub heads: i32,
    pub head_dim: i32,
    /// Keys that a query attends to.
    pub top_k: i32,
    /// Rotation of the first features of its queries and keys.
    pub rope: Rope,
}

crate::spec!(Mla, "mla", |m| match m.indexer {
    None => CacheKind::Whole,
    Some(_) => CacheKind::List(vec![CacheKind::Kept, CacheKind::Kept]),
});

impl Mla {
    /// Nothing but the sizes of its parts: no norms, no rotation, `kv_b_proj` as published, scale (nope + rope)^-0.5.
    pub fn new(hidden: i32, heads: i32, q_rank: Option<i32>, kv_rank: i32, [nope, rope, v]: [i32; 3]) -> Self {
        Mla {
            hidden,
            heads,
            q_rank,
            kv_rank,
            nope_dim: nope,
            rope_dim: rope,
            v_dim: v,
            bias: false,
            eps: None,
            scale: ((nope + rope) as f32).powf(-0.5),
            rope: None,
            layout: MlaLayout::Joined,
            o: "o_proj".into(),
            gate: None,
            q_factor: 1.0,
            kv_factor: 1.0,
            query_scale: None,
            window: None,
            indexer: None,
        }
    }
}
