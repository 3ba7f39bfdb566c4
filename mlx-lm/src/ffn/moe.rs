//! Mixture of experts: a router, the experts it chooses, experts that all tokens share.

use super::{Ffn, experts::Experts};
use crate::Result;
use crate::blueprint::{self, GroupScore, Groups, RouterWeights, Scoring};
use crate::parts::{Around, Norm, Registry, Step};
use crate::weights::Leaves;
use mlx::fast::{RouteScores, RouteWeights, Routing};
use mlx::nn::{LayerMut, Leaf, Linear, Module, Param, Path};
use mlx::{self as mx, Array, Dtype, nn};

/// Mixture of experts over [`blueprint::Moe`].
#[derive(Module)]
pub struct Moe {
    gate: Leaf<Gate>,
    correction: Option<Leaf<Param>>,
    experts: Leaf<Experts>,
    latent: Option<Leaf<Latent>>,
    shared: Option<Leaf<Box<dyn Ffn>>>,
    shared_gate: Option<Leaf<Linear>>,
    #[module(skip)]
    spec: blueprint::Moe,
}

/// The projection to expert logits.
struct Gate {
    linear: Linear,
    bare: bool,
}

impl Gate {
    fn load(s: &blueprint::Moe, choices: i32, leaves: &Leaves) -> Result<Leaf<Gate>> {
        let linear = leaves.linear(&s.router.name, s.hidden, choices, s.router.bias)?;
        let name = linear.name().to_string();
        Ok(Leaf::new(name, Gate { linear: linear.into_inner(), bare: s.router.is_bare() }))
    }
}

impl std::ops::Deref for Gate {
    type Target = Linear;
    fn deref(&self) -> &Linear {
        &self.linear
    }
}

impl Module for Gate {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        self.linear.visit(path, f);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        self.linear.visit_mut(path, f);
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        if !self.bare {
            self.linear.layers_mut(path, f);
        }
    }
    fn set_training(&mut self, on: bool) {
        self.linear.set_training(on);
    }
}

pub(super) fn build(s: &blueprint::Moe, leaves: &Leaves, r: &Registry) -> Result<Moe> {
    let shared = s.shared.as_ref();
    let choices = s.experts + s.zero_experts;
    Ok(Moe {
        gate: Gate::load(s, choices, leaves)?,
        correction: s.router.correction.as_ref().map(|name| leaves.param(name, &[choices])).transpose()?,
        experts: Leaf::new(s.experts_name.as_str(), Experts::load(s, &leaves.at(&s.experts_name))?),
        latent: s.latent.as_ref().map(|l| Latent::load(l, s.hidden, leaves)).transpose()?,
        shared: shared
            .map(|sh| {
                Ok::<_, crate::Error>(Leaf::new(sh.name.as_str(), r.build_ffn(sh.part.as_ref(), &leaves.at(&sh.name))?))
            })
            .transpose()?,
        shared_gate: shared
            .and_then(|sh| match (&sh.gate, &sh.mix) {
                (Some(name), _) => Some(leaves.linear(name, s.hidden, 1, false)),
                (None, mix) => mix.as_ref().map(|name| leaves.linear(name, s.hidden, 2, true)),
            })
            .transpose()?,
        spec: s.clone(),
    })
}

/// What lies around experts of another width.
#[derive(Module)]
struct Latent {
    down: Leaf<Linear>,
    input_norm: Option<Leaf<Norm>>,
    expert_norm: Option<Leaf<Norm>>,
    norm: Option<Leaf<Norm>>,
    up: Leaf<Linear>,
}

impl Latent {
    fn load(s: &blueprint::Latent, hidden: i32, leaves: &Leaves) -> Result<Leaf<Latent>> {
        let norm = |n: &Option<(String, blueprint::Norm)>| {
            n.as_ref().map(|(name, n)| Norm::load(leaves, name, n, &[s.width])).transpose()
        };
        let latent = Latent {
            down: leaves.linear(&s.down, hidden, s.width, s.bias)?,
            input_norm: norm(&s.input_norm)?,
            expert_norm: norm(&s.expert_norm)?,
            norm: norm(&s.norm)?,
            up: leaves.linear(&s.up, s.width, hidden, s.bias)?,
        };
        Ok(Leaf::new("", latent))
    }
}

fn normed(n: &Option<Leaf<Norm>>, x: Array) -> Array {
    n.as_ref().map_or(x.clone(), |n| n.forward(&x))
}

/// Chooses experts: logits [.., E] -> (indices [.., K], weights [.., K]).
pub fn route(s: &blueprint::Router, top_k: i32, logits: &Array, correction: Option<&Array>) -> (Array, Array) {
    let logits = if s.f32 { logits.astype(Dtype::Float32) } else { logits.clone() };
    let logits = match s.softcap {
        Some(cap) => (logits / cap).tanh() * cap,
        None => logits,
    };
    let logits = if s.temperature == 1.0 { logits } else { logits / s.temperature };
    if let Some(jitter) = s.sparse_mixer {
        return sparse_mixer(&logits, top_k, jitter);
    }
    let scores = match s.scoring {
        Scoring::None => logits,
        Scoring::Softmax => mx::softmax_with(&logits, -1, true),
        Scoring::Sigmoid => logits.sigmoid(),
        Scoring::SqrtSoftplus => nn::softplus(&logits).sqrt(),
    };
    let mut choice = correction.map_or_else(|| scores.clone(), |c| &scores + c);
    if let Some(g) = &s.groups {
        choice = limit_groups(&choice, g);
    }
    let indices = mx::argpartition(&-&choice, top_k - 1, -1).slice_axis(-1, 0..top_k).stop_gradient();
    let chosen = mx::take_along_axis(&scores, &indices, -1);
    let weights = match s.weights {
        RouterWeights::Scores => chosen,
        RouterWeights::Normalised { eps } => {
            let sum = chosen.sum_keepdims(-1);
            &chosen / if eps == 0.0 { sum } else { sum + eps }
        }
        RouterWeights::Softmax => mx::softmax_with(&chosen, -1, true),
        RouterWeights::Sigmoid => chosen.sigmoid(),
    };
    (indices, if s.scale == 1.0 { weights } else { weights * s.scale })
}

/// The best expert, then the best of the rest, and so on: each weighed within its own band of logits.
fn sparse_mixer(logits: &Array, top_k: i32, jitter: f32) -> (Array, Array) {
    let never = Array::scalar(f64::NEG_INFINITY, logits.dtype());
    let (mut masked, mut chosen, mut weights) = (logits.clone(), Vec::new(), Vec::new());
    for _ in 0..top_k {
        let best = masked.max_keepdims(-1);
        let index = mx::argmax(&masked, -1).expand_dims(-1).stop_gradient();
        let far = ((&best - logits) / mx::maximum(logits.abs(), &best)).gt(2.0 * jitter);
        let band = mx::softmax_with(&mx::where_(&far, &never, &masked), -1, true);
        weights.push(mx::take_along_axis(&band, &index, -1));
        masked = mx::put_along_axis(&masked, &index, &never, -1);
        chosen.push(index);
    }
    (mx::concatenate(&chosen, -1), mx::concatenate(&weights, -1))
}

/// Scores outside of the best groups become the fill value.
fn limit_groups(scores: &Array, g: &Groups) -> Array {
    let grouped = scores.unflatten(-1, [g.count, -1]);
    let group_scores = match g.score {
        GroupScore::Max => grouped.max_keepdims(-1),
        GroupScore::TopTwo => mx::topk(&grouped, 2, -1).sum_keepdims(-1),
    };
    let drop = g.count - g.top;
    if drop <= 0 {
        return scores.clone();
    }
    let worst = mx::argpartition(&group_scores, drop - 1, -2).slice_axis(-2, 0..drop).stop_gradient();
    let fill = Array::scalar(g.fill, scores.dtype());
    let worst = mx::broadcast_to(&worst, [&worst.shape()[..worst.ndim() - 1], &[grouped.dim(-1)]].concat());
    mx::put_along_axis(&grouped, &worst, &fill, -2).flatten(-2, -1)
}

impl Moe {
    /// Chosen experts and their weights for x [.., D].
    pub fn route(&self, x: &Array) -> (Array, Array) {
        let correction = self.correction.as_ref().map(|c| c.value());
        route(&self.spec.router, self.spec.top_k, &self.gate.forward(x), correction)
    }
}

impl Ffn for Moe {
    fn forward(&self, x: &Array, step: &Step) -> Array {
        let (mut indices, mut weights) = self.route(x);
        let mut kept = None;
        if self.spec.zero_experts > 0 {
            let zero = indices.greater_equal(self.spec.experts);
            kept = Some(mx::where_(&zero, &weights, 0.0).sum_keepdims(-1));
            (indices, weights) = (mx::where_(&zero, 0, &indices), mx::where_(&zero, 0.0, &weights));
        }
        let latent = self.latent.as_ref();
        let input = latent.map_or_else(|| x.clone(), |l| normed(&l.input_norm, l.down.forward(x)));
        let mut y = match self.spec.weigh_input {
            // one expert per token: one weight per row
            true => self.experts.forward(&(input * weights.astype(x.dtype())), &indices).sum(-2),
            false => {
                let y = self.experts.forward(&input, &indices);
                let y = latent.map_or(y.clone(), |l| normed(&l.expert_norm, y));
                (y * weights.expand_dims(-1)).sum(-2).astype(x.dtype())
            }
        };
        y = latent.map_or(y.clone(), |l| l.up.forward(&normed(&l.norm, y.clone())));
        if let Some(weight) = kept {
            y = y + x * weight.astype(x.dtype());
        }
        if let Some(shared) = &self.shared {
            let mut z = shared.forward(x, step);
            let mixed = self.spec.shared.as_ref().is_some_and(|s| s.mix.is_some());
            if let (Some(g), true) = (&self.shared_gate, mixed) {
                let share = mx::softmax_with(&g.forward(x), -1, true);
                return y * share.slice_axis(-1, 0..1) + z * share.slice_axis(-1, 1..2);
            }
            if let Some(g) = &self.shared_gate {
                z = z * g.forward(x).sigmoid();
            }
            y = y + z;
        }
        y
    }

    fn fused(&self, x: &Array, around: &Around<'_>) -> Option<Array> {
        let s = &self.spec.router;
        // few rows only: each token-expert pair reads its matrices by itself
        let few = x.size() / x.dim(-1).max(1) as usize <= 8;
        let plain = s.groups.is_none()
            && s.sparse_mixer.is_none()
            && s.softcap.is_none()
            && s.temperature == 1.0
            && !self.spec.weigh_input;
        let apart = self.shared.is_some() || self.spec.zero_experts > 0 || self.latent.is_some();
        if !few || !plain || apart || !around.residual || !mx::fast::has_layer_kernels() {
            return None;
        }
        let routing = Routing {
            top: self.spec.top_k,
            scores: match s.scoring {
                Scoring::None => RouteScores::Logits,
                Scoring::Softmax => RouteScores::Softmax,
                Scoring::Sigmoid => RouteScores::Sigmoid,
                Scoring::SqrtSoftplus => return None,
            },
            weights: match s.weights {
                RouterWeights::Scores => RouteWeights::Scores,
                RouterWeights::Normalised { eps } => RouteWeights::Normalised(eps),
                RouterWeights::Softmax => RouteWeights::Softmax,
                RouterWeights::Sigmoid => return None,
            },
            correction: self.correction.as_ref().map(|c| c.value()),
            scale: s.scale,
        };
        let normed = mx::fast::rms_norm(x, Some(around.norm.0), around.norm.1);
        let (ids, weights) = mx::fast::route_fused(&self.gate.forward(&normed), &routing)?;
        let y = self.experts.fused(&normed, &ids)?;
        mx::fast::combine_fused(x, &y, &weights)
    }
}
