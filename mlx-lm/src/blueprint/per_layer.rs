//! Inputs that each layer gets besides the residual stream (gemma3n, gemma4).

/// The table of per-layer inputs: runs before the layers.
#[derive(Debug, Clone)]
pub struct PerLayerInputs {
    /// Where its leaves lie: `model`.
    pub path: String,
    pub hidden: i32,
    pub layers: i32,
    /// Features per layer.
    pub width: i32,
    pub vocab: i32,
    pub eps: f32,
}

/// One layer's use of its input: project(gelu(gate(x)) * input).
#[derive(Debug, Clone)]
pub struct LayerInput {
    pub hidden: i32,
    pub width: i32,
    /// Which layer this is.
    pub index: i32,
}

/// Keeps the embeddings for layers that add them again.
#[derive(Debug, Clone)]
pub struct KeepEmbeddings;

/// The embeddings, once more (talkie).
#[derive(Debug, Clone)]
pub struct EmbedSkip;

/// Several residual streams, one of which a layer computes (AltUp, Baykal et al. 2023): made before the layers, averaged
/// after them.
#[derive(Debug, Clone)]
pub struct AltUp {
    pub inputs: PerLayerInputs,
    pub streams: i32,
    /// Which stream the layers compute.
    pub active: i32,
    /// Mixing weights are clipped to +- this.
    pub coef_clip: Option<f32>,
    pub correct_scale: bool,
}

/// One layer over the streams of [`AltUp`] (gemma3n).
#[derive(Debug, Clone)]
pub struct AltUpLayer {
    pub altup: AltUp,
    pub attention: super::Attention,
    pub mlp: super::Mlp,
    pub laurel_rank: i32,
    /// Which layer this is.
    pub index: i32,
}

/// One layer whose float32 stream is mixed with its branches by learned factors per feature (muse_spark):
/// `x = alpha x + beta norm(branch(norm(x)))`, attention, then experts.
#[derive(Debug, Clone)]
pub struct GatedLayer {
    pub attention: super::Attention,
    pub moe: super::Moe,
    /// On what goes into both branches.
    pub norm: super::Norm,
    /// On what comes out of the experts; attention's output has one of the same eps without a weight.
    pub post_norm: super::Norm,
    /// The first layer: it brings embeddings to length, and rounds attention's input to bf16.
    pub first: bool,
}

crate::spec!(GatedLayer, "gated_layer", |l| l.attention.cache.clone());
crate::spec!(AltUp, "altup");
crate::spec!(AltUpLayer, "altup_layer", |l| l.attention.cache.clone());
crate::spec!(KeepEmbeddings, "keep_embeddings");
crate::spec!(EmbedSkip, "embed_skip");
crate::spec!(PerLayerInputs, "per_layer_inputs");
crate::spec!(LayerInput, "layer_input");
