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

crate::spec!(KeepEmbeddings, "keep_embeddings");
crate::spec!(EmbedSkip, "embed_skip");
crate::spec!(PerLayerInputs, "per_layer_inputs");
crate::spec!(LayerInput, "layer_input");
