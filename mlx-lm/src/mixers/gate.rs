//! The gate on what attention gives, before its output projection.

use crate::Result;
use crate::blueprint::OutputGate;
use crate::weights::Leaves;
use mlx::Array;
use mlx::nn::{self, Leaf, Linear, Module};

/// [`OutputGate`] with its projection.
#[derive(Module)]
pub struct Gate {
    projection: Leaf<Linear>,
    #[module(skip)]
    kind: OutputGate,
}

impl Gate {
    /// The gate of `heads` heads as wide as `v_dim`; `None` without one, and where it is part of the queries.
    pub fn load(
        g: Option<&OutputGate>,
        leaves: &Leaves,
        hidden: i32,
        heads: i32,
        v_dim: i32,
    ) -> Result<Option<Leaf<Gate>>> {
        let projection = match g {
            None | Some(OutputGate::InQuery) => return Ok(None),
            Some(OutputGate::Full { name }) => leaves.linear(name, hidden, heads * v_dim, false)?,
            Some(OutputGate::PerHead { name, .. }) => leaves.linear_any_bias(name, hidden, heads)?,
        };
        Ok(g.map(|kind| Leaf::new("", Gate { projection, kind: kind.clone() })))
    }

    /// o [B, L, H, V] times the gate of x, with all heads side by side: [B, L, H V].
    pub fn apply(&self, o: Array, x: &Array) -> Array {
        let g = self.projection.forward(x);
        match self.kind {
            OutputGate::PerHead { softplus, .. } => {
                let g = if softplus { nn::softplus(&g) } else { g.sigmoid() };
                (o * g.expand_dims(-1)).flatten(-2, -1)
            }
            _ => o.flatten(-2, -1) * g.sigmoid(),
        }
    }
}
