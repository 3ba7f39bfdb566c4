//! A dense MLP and routed experts side by side, each between norms of its own (gemma4).

use super::{Experts, Ffn, Mlp, mlp};
use crate::Result;
use crate::blueprint::{self, DualMoe as Spec, Router};
use crate::parts::{Norm, Registry, Step};
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array};

/// post_1(mlp(pre(x))) + post_2(experts(pre_2(x), router(x)))
#[derive(Module)]
pub struct DualMoe {
    pre: Leaf<Norm>,
    dense: Leaf<Mlp>,
    post_1: Leaf<Norm>,
    router: Leaf<Linear>,
    /// Weight of the norm on the router's input.
    scale: Leaf<Param>,
    expert_scale: Leaf<Param>,
    pre_2: Leaf<Norm>,
    experts: Leaf<Experts>,
    post_2: Leaf<Norm>,
    #[module(skip)]
    spec: Spec,
}

pub(super) fn build(s: &Spec, leaves: &Leaves, _: &Registry) -> Result<DualMoe> {
    let (d, m) = (s.moe.hidden, &s.moe);
    let norm = |name: &str| Norm::load(leaves, name, &blueprint::Norm::rms(s.eps), &[d]);
    Ok(DualMoe {
        pre: norm("pre_feedforward_layernorm")?,
        dense: Leaf::new("mlp", mlp::build(&s.dense, &leaves.at("mlp"))?),
        post_1: norm("post_feedforward_layernorm_1")?,
        router: leaves.linear("router.proj", d, m.experts, false)?,
        scale: leaves.param("router.scale", &[d])?,
        expert_scale: leaves.param("router.per_expert_scale", &[m.experts])?,
        pre_2: norm("pre_feedforward_layernorm_2")?,
        experts: Leaf::new(m.experts_name.as_str(), Experts::load(m, &leaves.at(&m.experts_name))?),
        post_2: norm("post_feedforward_layernorm_2")?,
        spec: s.clone(),
    })
}

impl Ffn for DualMoe {
    fn forward(&self, x: &Array, step: &Step) -> Array {
        let (s, root) = (&self.spec, (self.spec.moe.hidden as f32).powf(-0.5));
        let dense = self.post_1.forward(&self.dense.forward(&self.pre.forward(x), step));
        let seen = mx::fast::rms_norm(x, Some(&(self.scale.value() * root)), s.eps);
        let logits = self.router.forward(&seen);
        let (ids, weights) = super::route(&Router::top_softmax(), s.moe.top_k, &logits, None);
        let weights = weights * self.expert_scale.value().take(&ids, 0);
        let y = self.experts.forward(&self.pre_2.forward(x), &ids);
        let y = (y * weights.expand_dims(-1)).sum(-2);
        dense + self.post_2.forward(&y)
    }
}
