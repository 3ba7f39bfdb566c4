//! Gated and plain MLPs.

use super::{Ffn, activation};
use crate::Result;
use crate::blueprint::{self, MlpNames};
use crate::parts::{Around, Norm, Step};
use crate::weights::Leaves;
use mlx::Array;
use mlx::fast::{self, Fused, Layer, Matrix};
use mlx::nn::{Leaf, Linear, Module};

/// down(act(gate(x)) * up(x)), or down(act(up(x))).
#[derive(Module)]
pub struct Mlp {
    gate_proj: Option<Leaf<Linear>>,
    up_proj: Leaf<Linear>,
    inner_norm: Option<Leaf<Norm>>,
    down_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::Mlp,
}

pub(super) fn build(s: &blueprint::Mlp, leaves: &Leaves) -> Result<Mlp> {
    let inward = |name: &str, out: i32| leaves.linear(name, s.hidden, out, s.bias);
    let (gate_proj, up_proj, down) = match &s.names {
        MlpNames::Gated { gate, up, down } => (Some(inward(gate, s.inner)?), inward(up, s.inner)?, down),
        MlpNames::FusedGated { gate_up, down } => (None, inward(gate_up, 2 * s.inner)?, down),
        MlpNames::FusedUpGate { up_gate, down } => (None, inward(up_gate, 2 * s.inner)?, down),
        MlpNames::Plain { up, down } => (None, inward(up, s.inner)?, down),
    };
    let down_proj = leaves.linear(down, s.inner, s.hidden, s.bias)?;
    let inner_norm = s.inner_norm.as_ref().map(|(name, n)| Norm::load(leaves, name, n, &[s.inner])).transpose()?;
    Ok(Mlp { gate_proj, up_proj, inner_norm, down_proj, spec: s.clone() })
}

impl Ffn for Mlp {
    fn forward(&self, x: &Array, _: &Step) -> Array {
        let act = self.spec.activation;
        let (gate, up) = match &self.gate_proj {
            Some(gate) => {
                let [gate, up] = Linear::forward_all([gate, &self.up_proj], x);
                (Some(gate), up)
            }
            None => (None, self.up_proj.forward(x)),
        };
        let inner = match (&gate, &self.spec.names) {
            (Some(gate), _) => match self.spec.limit {
                Some(clip) => activation::clipped(act, gate, &up, clip),
                None => activation::gated(act, gate, &up),
            },
            (None, MlpNames::FusedGated { .. }) => {
                let halves = up.split(2, -1);
                activation::gated(act, &halves[0], &halves[1])
            }
            (None, MlpNames::FusedUpGate { .. }) => {
                let halves = up.split(2, -1);
                activation::gated(act, &halves[1], &halves[0])
            }
            (None, _) => activation::apply(act, &up),
        };
        let inner = self.inner_norm.as_ref().map_or_else(|| inner.clone(), |n| n.forward(&inner));
        self.down_proj.forward(&inner)
    }
    fn fused(&self, x: &Array, around: &Around<'_>) -> Option<Array> {
        if self.spec.limit.is_some() || self.inner_norm.is_some() {
            return None;
        }
        let gate = activation::gate(self.spec.activation)?;
        let (up, down) = (self.up_proj.matrix()?, self.down_proj.matrix()?);
        let parts: &[Matrix<'_>] = match (&self.gate_proj, &self.spec.names) {
            (Some(g), _) => &[g.matrix()?, up],
            (None, MlpNames::FusedGated { .. }) => &[up],
            (None, _) => return None,
        };
        let inward =
            Fused { norm: Some(around.norm), gate: Some(gate), next: [Some(down.weight), None], residual: None };
        let down = Layer { parts: &[down], around: around.after(x) };
        Some(fast::linear_pair(x, Layer { parts, around: inward }, down))
    }

    fn first_weights(&self) -> [Option<&Array>; 2] {
        let gate = self.gate_proj.as_ref().map(|g| g.weight());
        if gate.is_some() { [gate, Some(self.up_proj.weight())] } else { [Some(self.up_proj.weight()), None] }
    }
}
