//! Softmax attention as data.

use super::{CacheKind, Norm, Rope};

/// Softmax attention over grouped KV heads.
#[derive(Debug, Clone)]
pub struct Attention {
    pub hidden: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    /// Width of a value head where it differs.
    pub v_head_dim: Option<i32>,
    pub scale: f32,
    pub projections: Projections,
    pub qkv_bias: bool,
    /// Leaf name of the output projection.
    pub o: String,
    pub o_bias: bool,
    pub qk_norm: Option<QkNorm>,
    /// Norm without leaves on the values (gemma4).
    pub v_norm: Option<Norm>,
    pub rope: Option<Rope>,
    /// Keys further back than this are not seen.
    pub window: Option<i32>,
    /// `cap * tanh(scores / cap)` before the softmax.
    pub softcap: Option<f32>,
    /// Leaf name of one extra logit per head.
    pub sinks: Option<String>,
    pub gate: Option<OutputGate>,
    /// Queries, keys and values are clipped to +- this (dbrx).
    pub clip_qkv: Option<f32>,
    /// Attention in float32 whatever the dtype.
    pub f32_scores: bool,
    /// Query head h reads kv head h modulo their number, in place of neighbours (plamo).
    pub tiled_kv: bool,
    pub share: KvShare,
    /// Factor on the values (mimo_v2).
    pub value_scale: Option<f32>,
    /// A factor on queries that grows with the position.
    pub query_scale: Option<QueryScale>,
    /// Leaf name of one learned factor per query head, after rotation and norm (talkie).
    pub q_gain: Option<String>,
    /// Norm without leaves on each head's output, before the gate (muse_spark).
    pub head_norm: Option<Norm>,
    /// Leaf name and kind of a norm before the output projection (bitnet).
    pub o_norm: Option<(String, Norm)>,
    /// Leaf names of the steps to whose multiples keys and values are rounded, within 8 bits (afm7).
    pub kv_rounding: Option<(String, String)>,
    /// Leaf names of two taps per kv head over time, on keys and values (baichuan_m1). The cache is a list then: two
    /// slots, and the keys and values.
    pub kv_conv: Option<(String, String)>,
    pub blocks: Option<BlockSparse>,
    /// Which blocks of keys are seen. The cache is a list then, or without an index if the family's is: the keys and
    /// values, and the index keys.
    pub index: Option<BlockIndex>,
    pub cache: CacheKind,
}

/// Keys and values shared by layers of one pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvShare {
    None,
    /// Later layers may take them under this name.
    Leave(String),
    /// Those of an earlier layer; no projections and no cache of its own.
    Take(String),
    /// The next layers may take them as projected, before norm and rotation (hunyuan).
    LeaveProjected,
    /// Those as projected of an earlier layer, with a norm and a cache of its own.
    TakeProjected,
}

/// Queries are multiplied by `1 + beta * log(1 + floor((position + shift) / every))` (llama4, ministral3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScale {
    pub beta: f32,
    pub every: f32,
    pub shift: f32,
}

/// Leaf names of the projections into heads.
#[derive(Debug, Clone, PartialEq)]
pub enum Projections {
    Separate {
        q: String,
        k: String,
        v: String,
    },
    Fused {
        name: String,
        layout: FusedQkv,
    },
    /// Values are the keys before norm and rotation (gemma4).
    KeyIsValue {
        q: String,
        k: String,
    },
    /// Keys and values come from another layer.
    Query {
        q: String,
    },
}

/// Row order of a fused projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedQkv {
    /// All q, all k, all v.
    Blocks,
    /// Per head: q, k, v (gpt_neox).
    PerHead,
    /// Per kv head: its q heads, then k, then v (internlm2, phi3small).
    PerKvGroup,
}

/// Norms on queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct QkNorm {
    pub kind: QkNormKind,
    pub norm: Norm,
    pub q: String,
    pub k: String,
    /// After the rotation instead of before.
    pub after_rope: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormKind {
    /// One weight `[head_dim]` for all heads.
    PerHead,
    /// Over the whole projected width, before the split into heads (olmo2).
    FullWidth,
    /// A weight row per head: [heads, head_dim] (cohere).
    RowPerHead,
}

/// A gate on the attention output, before the output projection.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputGate {
    /// sigmoid of the second half of each head of a doubled q_proj (qwen3_next).
    InQuery,
    /// sigmoid of a projection as wide as the output.
    Full { name: String },
    /// One gate per head.
    PerHead { name: String, softplus: bool },
}

/// Attention within a grid of blocks (phi3small): the last `local` blocks, and every `stride`-th one, shifted by head.
///
/// As in Python mlx-lm, all keys of a visible block are seen, and those that are not later than the query score 1 more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSparse {
    /// Tokens per block.
    pub size: i32,
    pub local: i32,
    pub stride: i32,
}

/// Small queries and keys that choose blocks of keys per query (minimax_m3), leaves `index_q_proj`, `index_k_proj`,
/// `index_q_norm`, `index_k_norm`.
#[derive(Debug, Clone)]
pub struct BlockIndex {
    /// Index heads; each serves as many neighbouring query heads.
    pub heads: i32,
    pub head_dim: i32,
    /// Keys per block.
    pub size: i32,
    /// Blocks that a query sees.
    pub top: i32,
    /// How many of them are the query's own and those right before it.
    pub local: i32,
    pub norm: Norm,
    pub rope: Rope,
}

/// sigmoid(q * k) * v, feature by feature, with keys and values convolved over time (gear).
#[derive(Debug, Clone)]
pub struct ConvGate {
    pub hidden: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    /// Length of the convolutions.
    pub taps: i32,
    pub bias: bool,
    /// Of queries and keys, per head.
    pub norm: Norm,
}

crate::spec!(ConvGate, "conv_mixer", |_| CacheKind::Slots(2));

/// Attention of layers that run twice (iquestloopcoder): the second time, a sigmoid of each query mixes attention over
/// the first pass's keys with attention over a short window of its own.
#[derive(Debug, Clone)]
pub struct Looped {
    pub attention: Attention,
    pub window: i32,
    /// Which layer this is.
    pub layer: i32,
    /// Leaf name of the gate: weight [heads, head_dim], bias `[heads]`.
    pub gate: String,
}

impl Attention {
    /// The cache of a layer that reads its history as a whole.
    fn whole(&self) -> CacheKind {
        if self.cache == CacheKind::Kv { CacheKind::Whole } else { self.cache.clone() }
    }
}

crate::spec!(Looped, "looped_attention", |l| l.attention.whole());
crate::spec!(Attention, "full_attention", |a| match a.share {
    KvShare::Leave(_) => a.whole(),
    _ => a.cache.clone(),
});

impl Attention {
    /// The common form: separate `q_proj`, `k_proj`, `v_proj`, `o_proj`, no biases, scale head_dim^-0.5, a KV cache.
    pub fn new(hidden: i32, heads: i32, kv_heads: i32, head_dim: i32) -> Self {
        Attention {
            hidden,
            heads,
            kv_heads,
            head_dim,
            v_head_dim: None,
            scale: (head_dim as f32).powf(-0.5),
            projections: Projections::Separate { q: "q_proj".into(), k: "k_proj".into(), v: "v_proj".into() },
            qkv_bias: false,
            o: "o_proj".into(),
            o_bias: false,
            qk_norm: None,
            v_norm: None,
            rope: None,
            window: None,
            softcap: None,
            sinks: None,
            gate: None,
            clip_qkv: None,
            f32_scores: false,
            tiled_kv: false,
            share: KvShare::None,
            value_scale: None,
            query_scale: None,
            q_gain: None,
            head_norm: None,
            o_norm: None,
            kv_rounding: None,
            kv_conv: None,
            blocks: None,
            index: None,
            cache: CacheKind::Kv,
        }
    }
    pub fn rope(mut self, rope: Rope) -> Self {
        self.rope = Some(rope);
        self
    }
    /// One matrix for queries, keys and values.
    pub fn fused(mut self, name: &str, layout: FusedQkv) -> Self {
        self.projections = Projections::Fused { name: name.into(), layout };
        self
    }
    /// The leaf name of the output projection.
    pub fn output(mut self, name: &str) -> Self {
        self.o = name.into();
        self
    }
    /// Biases on all four projections, or on none.
    pub fn bias(mut self, on: bool) -> Self {
        (self.qkv_bias, self.o_bias) = (on, on);
        self
    }
    /// Per-head norms named `q_norm` and `k_norm`.
    pub fn qk_norm(mut self, kind: QkNormKind, norm: Norm) -> Self {
        self.qk_norm = Some(QkNorm { kind, norm, q: "q_norm".into(), k: "k_norm".into(), after_rope: false });
        self
    }
    /// As [`qk_norm`](Self::qk_norm), under other leaf names.
    pub fn qk_norm_named(mut self, kind: QkNormKind, norm: Norm, q: &str, k: &str, after_rope: bool) -> Self {
        self.qk_norm = Some(QkNorm { kind, norm, q: q.into(), k: k.into(), after_rope });
        self
    }
    /// A sliding window with a rotating cache of that size.
    pub fn sliding(mut self, window: i32) -> Self {
        self.window = Some(window);
        self.cache = CacheKind::Rotating { size: window, keep: 0 };
        self
    }
    pub fn query_scale(mut self, beta: f32, every: f32, shift: f32) -> Self {
        self.query_scale = Some(QueryScale { beta, every, shift });
        self
    }
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }
}
