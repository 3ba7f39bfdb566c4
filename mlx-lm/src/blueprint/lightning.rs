//! Lightning attention as data (arXiv:2401.04658).

use super::{CacheKind, Norm, Projections, QkNorm, Rope};

/// Linear attention whose heads forget at fixed rates.
#[derive(Debug, Clone)]
pub struct Lightning {
    pub hidden: i32,
    pub heads: i32,
    pub head_dim: i32,
    /// Separate, or fused in blocks.
    pub projections: Projections,
    pub qkv_bias: bool,
    /// Leaf name of the output projection.
    pub o: String,
    pub o_bias: bool,
    /// Per head.
    pub qk_norm: Option<QkNorm>,
    pub rope: Option<Rope>,
    /// A token fades by e^(-rate slope) with each later one, with the slopes of ALiBi (arXiv:2108.12409).
    pub rate: f32,
    pub gate: Option<LightningGate>,
}

impl Lightning {
    /// Separate projections and nothing around them.
    pub fn bare(hidden: i32, heads: i32, head_dim: i32) -> Self {
        Lightning {
            hidden,
            heads,
            head_dim,
            projections: Projections::Separate { q: "q_proj".into(), k: "k_proj".into(), v: "v_proj".into() },
            qkv_bias: false,
            o: "o_proj".into(),
            o_bias: false,
            qk_norm: None,
            rope: None,
            rate: 1.0,
            gate: None,
        }
    }
}

/// sigmoid(gate(x)) times the norm of the outputs, group by group.
#[derive(Debug, Clone, PartialEq)]
pub struct LightningGate {
    /// Leaf name of the projection.
    pub name: String,
    /// Leaf name and kind of the norm, whose weight is as wide as all heads.
    pub norm: (String, Norm),
    pub groups: i32,
}

crate::spec!(Lightning, "lightning", |_| CacheKind::Slots(1));
