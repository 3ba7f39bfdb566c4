//! Attention over residuals: sublayers see a mixture of the sums that blocks of earlier sublayers ended with (kimi_k3).

use super::block::{Branch, branches};
use crate::Result;
use crate::blueprint::{ResidualLayer, ResidualMix};
use crate::cache::Cache;
use crate::parts::{Block, Prologue, Registry, Step};
use crate::weights::Leaves;
use mlx::nn::{Leaf, Module, Param};
use mlx::{self as mx, Array, Dtype, fast};

pub(super) fn register(r: &mut Registry) {
    r.prologue(Mix::load);
    r.block(Layer::load);
}

/// Under which name the ended sums [N, B, L, D] are left for later layers.
const ENDED: &str = "ended residual sums";

#[derive(Module)]
struct Mix {
    query: Leaf<Param>,
    norm: Leaf<Param>,
    #[module(skip)]
    eps: f32,
}

impl Mix {
    fn load(s: &ResidualMix, leaves: &Leaves) -> Result<Mix> {
        Ok(Mix {
            query: leaves.param(&format!("{}.weight", s.query), &[1, s.hidden])?,
            norm: leaves.param(&format!("{}.weight", s.norm), &[s.hidden])?,
            eps: s.eps,
        })
    }

    /// The mixture of the sum x [B, L, D] and of all that ended before it, in float32 inside.
    fn forward(&self, x: &Array, step: &Step) -> Array {
        let Some(ended) = step.get(ENDED) else { return x.clone() };
        let all = mx::concatenate(&[ended, x.expand_dims(0)], 0).astype(Dtype::Float32);
        let normed = fast::rms_norm(&all, Some(&self.norm.astype(Dtype::Float32)), self.eps);
        let scores = normed.matmul(&self.query.astype(Dtype::Float32).t());
        (mx::softmax_with(&scores, 0, true) * all).sum(0).astype(x.dtype())
    }
}

impl Prologue for Mix {
    fn before(&self, h: Array, _: &Step, _: Option<&mut dyn Cache>) -> Array {
        h
    }
    fn after(&self, h: Array, step: &Step) -> Array {
        self.forward(&h, step)
    }
}

#[derive(Module)]
struct Layer {
    mixes: Leaf<Vec<Leaf<Mix>>>,
    branches: Leaf<Vec<Leaf<Branch>>>,
    #[module(skip)]
    starts: Vec<bool>,
}

impl Layer {
    fn load(s: &ResidualLayer, leaves: &Leaves, r: &Registry) -> Result<Layer> {
        let hidden = s.0.first().map_or(0, |b| b.mix.hidden);
        let mixes = s.0.iter().map(|b| Ok(Leaf::new("", Mix::load(&b.mix, leaves)?))).collect::<Result<_>>()?;
        Ok(Layer {
            mixes: Leaf::new("", mixes),
            branches: Leaf::new("", branches(s.0.iter().map(|b| &b.branch), hidden, r, leaves)?),
            starts: s.0.iter().map(|b| b.starts).collect(),
        })
    }
}

fn end(sum: &Array, step: &Step) {
    let sum = sum.expand_dims(0);
    step.put(ENDED, step.get(ENDED).map_or(sum.clone(), |ended| mx::concatenate(&[ended, sum], 0)));
}

impl Block for Layer {
    fn forward(&self, mut sum: Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let many = self.branches.iter().filter(|b| b.has_mixer()).count() > 1;
        for ((mix, branch), starts) in self.mixes.iter().zip(self.branches.iter()).zip(&self.starts) {
            let y = branch.forward(&mix.forward(&sum, step), step, cache, many);
            if *starts {
                end(&sum, step);
                sum = y;
            } else {
                sum = sum + y;
            }
        }
        sum
    }
}
