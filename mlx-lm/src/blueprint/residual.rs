//! Attention over residuals as data (arXiv:2603.15031).

use super::{Branch, CacheKind, Layer};

/// Mixes the running residual sum with the sums that earlier blocks of sublayers ended with: a softmax of how much the
/// norm of each agrees with a learned query. As a prologue it mixes what the last layer gives.
#[derive(Debug, Clone, PartialEq)]
pub struct ResidualMix {
    pub hidden: i32,
    pub eps: f32,
    /// Leaf names of the query [1, D] and of the norm.
    pub query: String,
    pub norm: String,
}

/// A layer whose sublayers see such mixtures.
#[derive(Debug, Clone)]
pub struct ResidualLayer(pub Vec<ResidualBranch>);

/// One sublayer of a [`ResidualLayer`].
#[derive(Debug, Clone)]
pub struct ResidualBranch {
    pub mix: ResidualMix,
    /// The sum so far ends here and is kept; a new one starts with this sublayer's output.
    pub starts: bool,
    pub branch: Branch,
}

crate::spec!(ResidualMix, "residual_mix");
crate::spec!(ResidualLayer, "residual_layer", ResidualLayer::caches);

impl ResidualMix {
    /// With the leaves `{name}_proj` and `{name}_norm`.
    pub fn new(hidden: i32, eps: f32, name: &str) -> Self {
        ResidualMix { hidden, eps, query: format!("{name}_proj"), norm: format!("{name}_norm") }
    }
}

impl ResidualLayer {
    fn caches(&self) -> CacheKind {
        Layer::sequential(self.0.iter().map(|b| b.branch.clone()).collect::<Vec<_>>()).cache()
    }
}
