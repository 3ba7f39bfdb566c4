//! Parts of one operation: a matrix in place of a sublayer, the embeddings added again.

use super::Ffn;
use crate::Result;
use crate::blueprint::{EmbedSkip as SkipSpec, LinearFfn as Spec};
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::Array;
use mlx::nn::{Leaf, Linear, Module};

/// linear(x)
#[derive(Module)]
pub struct LinearFfn {
    linear: Leaf<Linear>,
}

pub(super) fn build(s: &Spec, leaves: &Leaves) -> Result<LinearFfn> {
    Ok(LinearFfn { linear: leaves.linear("linear", s.hidden, s.hidden, s.bias)? })
}

impl Ffn for LinearFfn {
    fn forward(&self, x: &Array, _: &Step) -> Array {
        self.linear.forward(x)
    }
}

/// What the embedding gave, whatever x is.
#[derive(Module)]
pub struct EmbedSkip {}

pub(super) fn build_skip(_: &SkipSpec, _: &Leaves) -> Result<EmbedSkip> {
    Ok(EmbedSkip {})
}

impl Ffn for EmbedSkip {
    fn forward(&self, _: &Array, step: &Step) -> Array {
        match step.get("embeddings") {
            Some(e) => e,
            None => panic!("no part of this model keeps the embeddings"),
        }
    }
}
