//! An MLP whose gate and up rows alternate (phi3small).

use super::{Ffn, activation};
use crate::Result;
use crate::blueprint::{Activation, GegeluMlp as Spec};
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module};
use mlx::{self as mx, Array};

/// down(gelu(min(gate, limit)) * (clip(up) + 1))
#[derive(Module)]
pub struct GegeluMlp {
    up: Leaf<Linear>,
    down: Leaf<Linear>,
    #[module(skip)]
    spec: Spec,
}

pub(super) fn build(s: &Spec, leaves: &Leaves) -> Result<GegeluMlp> {
    Ok(GegeluMlp {
        up: leaves.linear("up_proj", s.hidden, 2 * s.inner, true)?,
        down: leaves.linear("down_proj", s.inner, s.hidden, true)?,
        spec: s.clone(),
    })
}

impl Ffn for GegeluMlp {
    fn forward(&self, x: &Array, _: &Step) -> Array {
        let limit = self.spec.limit;
        let pairs = self.up.forward(x).unflatten(-1, [self.spec.inner, 2]).split(2, -1);
        let (gate, up) = (pairs[0].squeeze(-1), pairs[1].squeeze(-1));
        let gate = activation::apply(Activation::GeluFast, &mx::minimum(&gate, limit));
        self.down.forward(&(gate * (mx::clip(&up, Some(-limit), Some(limit)) + 1.0)))
    }
}
