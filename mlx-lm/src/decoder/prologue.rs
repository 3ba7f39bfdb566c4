//! What runs once per pass around all layers: arrays that every layer needs, and wider residual streams.

use super::ngram::NgramEmbeddings;
use crate::Result;
use crate::blueprint::{KeepEmbeddings, Norm as NormSpec, PerLayerInputs as Spec};
use crate::cache::Cache;
use crate::parts::{Norm, Prologue, Registry, Step};
use crate::weights::Leaves;
use mlx::nn::{Embedding, Leaf, Linear, Module};
use mlx::{self as mx, Array};

pub(super) fn register(r: &mut Registry) {
    r.prologue(PerLayerInputs::load);
    r.prologue(NgramEmbeddings::load);
    r.prologue(|_: &KeepEmbeddings, _| Ok(Embeddings {}));
}

/// Leaves the embeddings for later layers.
#[derive(Module)]
pub(super) struct Embeddings {}

impl Prologue for Embeddings {
    fn before(&self, h: Array, step: &Step, _: Option<&mut dyn Cache>) -> Array {
        step.put("embeddings", h.clone());
        h
    }
}

/// A second embedding, as wide as all layers together, mixed with a projection of the first: each layer gets its own
/// part (gemma3n, gemma4).
#[derive(Module)]
pub(super) struct PerLayerInputs {
    tokens: Leaf<Embedding>,
    projection: Leaf<Linear>,
    norm: Leaf<Norm>,
    #[module(skip)]
    spec: Spec,
}

impl PerLayerInputs {
    pub fn load(s: &Spec, leaves: &Leaves) -> Result<PerLayerInputs> {
        let at = |leaf: &str| format!("{}.{leaf}", s.path);
        let norm = NormSpec::rms(s.eps);
        Ok(PerLayerInputs {
            tokens: leaves.embedding(&at("embed_tokens_per_layer"), s.vocab, s.layers * s.width)?,
            projection: leaves.linear(&at("per_layer_model_projection"), s.hidden, s.layers * s.width, false)?,
            norm: Norm::load(leaves, &at("per_layer_projection_norm"), &norm, &[s.width])?,
            spec: s.clone(),
        })
    }
}

impl Prologue for PerLayerInputs {
    fn before(&self, h: Array, step: &Step, _: Option<&mut dyn Cache>) -> Array {
        let s = &self.spec;
        let split = |a: Array| a.unflatten(-1, [s.layers, s.width]);
        let ids = step.ids();
        // ids beyond this table are those of other modalities
        let ids = mx::where_(ids.less(s.vocab), ids, 0);
        let own = split(self.tokens.forward(&ids) * (s.width as f32).sqrt());
        let mixed = split(self.projection.forward(&h) * (s.hidden as f32).powf(-0.5));
        step.put("per_layer_inputs", (self.norm.forward(&mixed) + own) * std::f32::consts::FRAC_1_SQRT_2);
        h
    }
}
