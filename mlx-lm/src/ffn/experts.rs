//! Stacked experts: each token's rows through the matrices of its own experts (`SwitchGLU`, `SwitchMLP`).

use super::activation;
use crate::Result;
use crate::blueprint::{Experts as Body, Moe};
use crate::weights::Leaves;
use mlx::nn::{Leaf, Module, SwitchLinear};
use mlx::{self as mx, Array};

/// All experts of one layer.
#[derive(Module)]
pub struct Experts {
    gate_proj: Option<Leaf<SwitchLinear>>,
    up_proj: Leaf<SwitchLinear>,
    down_proj: Leaf<SwitchLinear>,
    #[module(skip)]
    body: Body,
}

/// From this many token-expert pairs on, tokens are sorted by expert.
const SORT_FROM: usize = 64;

impl Experts {
    pub fn load(s: &Moe, leaves: &Leaves) -> Result<Experts> {
        let width = s.latent.as_ref().map_or(s.hidden, |l| l.width);
        let inward = |name: &str| leaves.switch_linear(name, s.experts, width, s.inner, s.bias);
        let outward = |name: &str| leaves.switch_linear(name, s.experts, s.inner, width, s.bias);
        let (gate_proj, up_proj, down_proj) = match &s.body {
            Body::Plain { up, down, .. } => (None, inward(up)?, outward(down)?),
            _ => (Some(inward("gate_proj")?), inward("up_proj")?, outward("down_proj")?),
        };
        Ok(Experts { gate_proj, up_proj, down_proj, body: s.body.clone() })
    }

    /// x [.., D], indices [.., K] -> [.., K, D].
    pub fn forward(&self, x: &Array, indices: &Array) -> Array {
        let indices = indices.stop_gradient();
        let rows = x.expand_dims([-2, -3]);
        if indices.size() < SORT_FROM {
            return self.run(&rows, &indices, false).squeeze(-2);
        }
        // rows in the order of their experts, so that each matrix is read once
        let k = indices.dim(-1);
        let flat = indices.flatten(0, -1);
        let order = mx::argsort(&flat, -1);
        let back = mx::argsort(&order, -1);
        let sorted = mx::take(&rows.flatten(0, -3), &mx::floor_divide(&order, k), 0);
        let y = self.run(&sorted, &mx::take(&flat, &order, 0), true);
        mx::take(&y, &back, 0).unflatten(0, indices.shape()).squeeze(-2)
    }

    /// As [`forward`](Self::forward) for few rows, two kernels in all; `None` where there are none. Ids are uint32.
    pub fn fused(&self, x: &Array, ids: &Array) -> Option<Array> {
        let Body::Gated(a) = self.body else { return None };
        let gate = activation::gate(a)?;
        let (g, u, down) = (self.gate_proj.as_ref()?.matrix()?, self.up_proj.matrix()?, self.down_proj.matrix()?);
        let inner = mx::fast::expert_rows_fused(x, &[g, u], ids, Some(gate))?;
        mx::fast::expert_rows_fused(&inner, &[down], ids, None)
    }

    fn run(&self, x: &Array, indices: &Array, sorted: bool) -> Array {
        let up = self.up_proj.forward(x, indices, sorted);
        let gate = self.gate_proj.as_ref().map(|g| g.forward(x, indices, sorted));
        let inner = match (&self.body, gate) {
            (Body::Gated(a), Some(gate)) => activation::gated(*a, &gate, &up),
            (Body::Clipped { activation: a, clip }, Some(gate)) => activation::clipped(*a, &gate, &up, *clip),
            (Body::Plain { activation: a, .. }, _) => activation::apply(*a, &up),
            (_, None) => up,
        };
        self.down_proj.forward(&inner, indices, sorted)
    }
}
