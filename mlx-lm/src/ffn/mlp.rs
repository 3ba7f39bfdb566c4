//! Gated and plain MLPs.

use super::{Ffn, activation};
use crate::Result;
use crate::blueprint::{self, MlpNames};
use crate::decoder::Step;
use crate::weights::Leaves;
use mlx::Array;
use mlx::nn::{Leaf, Linear, Module};

/// down(act(gate(x)) * up(x)), or down(act(up(x))).
#[derive(Module)]
pub struct Mlp {
    gate_proj: Option<Leaf<Linear>>,
    up_proj: Leaf<Linear>,
    down_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::Mlp,
}

pub(super) fn build(s: &blueprint::Mlp, leaves: &Leaves) -> Result<Mlp> {
    let inward = |name: &str, out: i32| leaves.linear(name, s.hidden, out, s.bias);
    let (gate_proj, up_proj, down) = match &s.names {
        MlpNames::Gated { gate, up, down } => (Some(inward(gate, s.inner)?), inward(up, s.inner)?, down),
        MlpNames::FusedGated { gate_up, down } => (None, inward(gate_up, 2 * s.inner)?, down),
        MlpNames::Plain { up, down } => (None, inward(up, s.inner)?, down),
    };
    let down_proj = leaves.linear(down, s.inner, s.hidden, s.bias)?;
    Ok(Mlp { gate_proj, up_proj, down_proj, spec: s.clone() })
}

impl Ffn for Mlp {
    fn forward(&self, x: &Array, _: &Step) -> Array {
        let act = self.spec.activation;
        let up = self.up_proj.forward(x);
        let inner = match (&self.gate_proj, &self.spec.names) {
            (Some(gate), _) => activation::gated(act, &gate.forward(x), &up),
            (None, MlpNames::FusedGated { .. }) => {
                let halves = up.split(2, -1);
                activation::gated(act, &halves[0], &halves[1])
            }
            (None, _) => activation::apply(act, &up),
        };
        self.down_proj.forward(&inner)
    }
}
