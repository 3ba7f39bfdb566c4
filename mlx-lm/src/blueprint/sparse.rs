//! Block-sparse attention as data: native sparse attention and mixtures of block attention.

use super::{CacheKind, HeadOutput, Norm, Rope};

/// Native sparse attention (arXiv:2502.11089): three branches, mixed by a sigmoid of `g_proj` per head.
#[derive(Debug, Clone)]
pub struct Nsa {
    pub hidden: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub v_head_dim: i32,
    /// Biases on queries, keys and values.
    pub bias: bool,
    pub blocks: NsaBlocks,
    pub rope: Option<Rope>,
}

/// What the branches of [`Nsa`] see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NsaBlocks {
    /// Tokens per block.
    pub size: i32,
    /// Blocks that a query selects, of them its own, the one before and the first.
    pub count: i32,
    /// Tokens of the sliding branch; none, no such branch.
    pub window: Option<i32>,
}

/// Mixture of block attention (arXiv:2502.13189): each query sees its own block and the past blocks whose mean key it
/// likes best.
#[derive(Debug, Clone)]
pub struct Moba {
    pub hidden: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    /// Biases on queries, keys and values.
    pub bias: bool,
    /// Norms `q_norm` and `k_norm` over each head.
    pub qk_norm: Option<Norm>,
    /// Tokens per block.
    pub block: i32,
    /// Blocks that a query sees, its own included. The published code reads 1 as all of them.
    pub count: i32,
    /// A token that comes alone sees all before it, as the published code decodes from its cache (section 3.3 of the
    /// paper); then a prompt read token by token is another model than one read at once.
    pub dense_decode: bool,
    pub rope: Option<Rope>,
    pub output: HeadOutput,
}

// blocks are counted from the first token: a cache which forgets tokens will not do
crate::spec!(Nsa, "nsa", |_| CacheKind::List(vec![CacheKind::Kept]));
crate::spec!(Moba, "moba", |_| CacheKind::List(vec![CacheKind::Kept]));
