//! A layer's own input, gated by the residual stream (gemma3n, gemma4).

use super::{Ffn, activation};
use crate::Result;
use crate::blueprint::{Activation, LayerInput as Spec};
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::Array;
use mlx::nn::{Leaf, Linear, Module};

/// project(gelu(gate(x)) * input)
#[derive(Module)]
pub struct LayerInput {
    gate: Leaf<Linear>,
    project: Leaf<Linear>,
    #[module(skip)]
    index: i32,
}

pub fn build(s: &Spec, leaves: &Leaves) -> Result<LayerInput> {
    Ok(LayerInput {
        gate: leaves.linear("per_layer_input_gate", s.hidden, s.width, false)?,
        project: leaves.linear("per_layer_projection", s.width, s.hidden, false)?,
        index: s.index,
    })
}

impl Ffn for LayerInput {
    fn forward(&self, x: &Array, step: &Step) -> Array {
        let Some(all) = step.get("per_layer_inputs") else { panic!("no part of this model leaves per-layer inputs") };
        let own = all.slice_axis(2, self.index..self.index + 1).squeeze(2);
        self.project.forward(&activation::gated(Activation::GeluTanh, &self.gate.forward(x), &own))
    }
}
