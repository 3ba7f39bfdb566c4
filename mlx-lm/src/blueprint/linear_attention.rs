//! Linear attention as data: the layers of the linear-attention library (`fla`) and their bare forms.

use super::{Activation, CacheKind, Norm, Rope};

/// Queries, keys and values of heads: leaves `q_proj`, `k_proj`, `v_proj`.
#[derive(Debug, Clone)]
pub struct LinearHeads {
    pub hidden: i32,
    pub heads: i32,
    /// Heads of keys and values; each serves heads / kv_heads neighbours.
    pub kv_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// Convolutions `q_conv1d`, `k_conv1d`, `v_conv1d` behind the projections.
    pub conv: Option<ShortConvs>,
}

/// Causal convolutions over time, channel by channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortConvs {
    pub taps: i32,
    pub bias: bool,
}

/// From the heads' outputs to the layer's: a norm per head, a gate, `o_proj`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadOutput {
    /// Leaf name and kind of a norm over each head.
    pub norm: Option<(String, Norm)>,
    pub gate: Option<HeadGate>,
}

/// An activation of `g_proj` that multiplies the (normed) outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadGate {
    /// SiLU of one matrix.
    Silu,
    /// Sigmoid of two, `g_proj.0` and `g_proj.1`, as narrow as a head in between (moba).
    NarrowSigmoid,
}

/// Gated linear attention (arXiv:2312.06635): `S = diag(e^g) S + k v^T`, g = log sigmoid(gate) / normalizer.
#[derive(Debug, Clone)]
pub struct Gla {
    pub heads: LinearHeads,
    pub forget: Forget,
    /// Log-decays are divided by it.
    pub normalizer: f32,
    /// Log-decays are at least this.
    pub clamp_min: Option<f32>,
    /// On queries and keys.
    pub feature_map: Option<Activation>,
    pub output: HeadOutput,
}

/// Where the decays of [`Gla`] come from: leaf `gk_proj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forget {
    /// One matrix to a gate per key dimension.
    PerKey,
    /// Two matrices, `gk_proj.0` and `gk_proj.1` with a bias, this wide in between.
    Narrow(i32),
    /// One gate per head, with a bias (simple_gla).
    PerHead,
}

/// Retention (arXiv:2307.08621): linear attention whose head h forgets by 1 - 2^(-5-h) per token.
#[derive(Debug, Clone)]
pub struct Retention {
    pub heads: LinearHeads,
    pub feature_map: Option<Activation>,
    pub rope: Option<Rope>,
    pub output: HeadOutput,
}

/// The delta rule (arXiv:2406.06484): `S = S + beta k (v - k^T S)`.
#[derive(Debug, Clone)]
pub struct DeltaNet {
    pub heads: LinearHeads,
    /// On queries and keys, behind the convolutions or in their place.
    pub qk_activation: Option<Activation>,
    /// SiLU on values.
    pub silu_values: bool,
    pub qk_norm: DeltaNorm,
    /// beta = sigmoid of `b_proj`; 1 without.
    pub beta: bool,
    /// beta reaches to 2.
    pub negative: bool,
    pub output: HeadOutput,
}

/// How [`DeltaNet`] scales its vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaNorm {
    /// Queries and keys to unit length.
    Unit,
    /// Queries and keys to unit sum of magnitudes.
    Sum,
    /// Keys to unit length, queries as they are.
    UnitKeys,
}

/// Gated slot attention (arXiv:2409.07146): a memory of slots, read by a softmax over them.
#[derive(Debug, Clone)]
pub struct Gsa {
    pub heads: LinearHeads,
    pub slots: i32,
    pub normalizer: f32,
    /// Factor on the scores of slots.
    pub scale: f32,
    pub feature_map: Option<SlotMap>,
    pub output: SlotOutput,
}

/// What [`Gsa`] does to queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SlotMap {
    Act(Activation),
    /// ReLU of one matrix for all heads, `feature_map.layer` (T2R).
    Learned,
}

/// What [`Gsa`] does to its outputs before `o_proj`.
#[derive(Debug, Clone, PartialEq)]
pub enum SlotOutput {
    /// A norm, under this leaf name, over SiLU of all heads; values go through SiLU, too.
    Normed(String, Norm),
    /// Times SiLU of `g_proj`.
    Gated,
}

crate::spec!(Gla, "gla", |s| CacheKind::Slots(1 + s.heads.slots()));
crate::spec!(Retention, "retnet", |s| CacheKind::Slots(1 + s.heads.slots() + s.rope.is_some() as usize));
crate::spec!(DeltaNet, "deltanet", |s| CacheKind::Slots(1 + s.heads.slots()));
crate::spec!(Gsa, "gsa", |s| CacheKind::Slots(2 + s.heads.slots()));

impl LinearHeads {
    /// Bare projections with as many key and value heads as queries.
    pub fn bare(hidden: i32, heads: i32, key_dim: i32, value_dim: i32) -> Self {
        LinearHeads { hidden, heads, kv_heads: heads, key_dim, value_dim, conv: None }
    }
    /// Slots for the tails of the convolutions.
    pub fn slots(&self) -> usize {
        if self.conv.is_some() { 3 } else { 0 }
    }
}

impl HeadOutput {
    /// `o_proj` alone.
    pub fn bare() -> Self {
        HeadOutput { norm: None, gate: None }
    }
    /// A norm and a gate as gla and retnet name them: `g_norm_swish_gate` in one kernel, or `g_norm`.
    pub fn swish(norm: Norm, gate: bool, fused: bool) -> Self {
        let name = if gate && fused { "g_norm_swish_gate" } else { "g_norm" };
        HeadOutput { norm: Some((name.into(), norm)), gate: gate.then_some(HeadGate::Silu) }
    }
}

impl DeltaNet {
    /// The published layer (arXiv:2406.06484) on these heads.
    pub fn published(heads: LinearHeads, norm: Norm) -> Self {
        DeltaNet {
            heads,
            qk_activation: Some(Activation::Silu),
            silu_values: true,
            qk_norm: DeltaNorm::Unit,
            beta: true,
            negative: false,
            output: HeadOutput { norm: Some(("o_norm".into(), norm)), gate: None },
        }
    }
}

impl Activation {
    /// An activation as the linear-attention library names it.
    pub fn from_fla(name: &str) -> Option<Self> {
        Some(match name {
            "sqrelu" => Activation::Relu2,
            "gelu" => Activation::GeluTanh,
            "logsigmoid" => Activation::LogSigmoid,
            "elu" => Activation::EluPlusOne,
            "silu" | "swish" | "relu" | "sigmoid" => Activation::from_name(name)?,
            _ => return None,
        })
    }
}
