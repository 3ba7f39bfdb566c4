//! Layers whose residual stream is mixed by learned factors (muse_spark).

use crate::Result;
use crate::blueprint::{GatedLayer as Spec, Norm as NormSpec};
use crate::cache::Cache;
use crate::parts::{Block, Ffn, Mixer, Norm, Registry, Step};
use crate::weights::Leaves;
use mlx::nn::{Leaf, Module, Param, Path};
use mlx::{Array, Dtype, fast};

pub(super) fn register(r: &mut Registry) {
    r.block(Layer::load);
}

/// x = alpha x + beta norm(branch(norm(x))), twice; x in float32, branches in the type of their weights.
#[derive(Module)]
struct Layer {
    input_norm: Leaf<Norm>,
    attention: Leaf<Box<dyn Mixer>>,
    attn_alpha: Leaf<Param>,
    attn_beta: Leaf<Param>,
    ffn_norm: Leaf<Norm>,
    mlp: Leaf<Box<dyn Ffn>>,
    post_ffn_norm: Leaf<Norm>,
    ffn_alpha: Leaf<Param>,
    ffn_beta: Leaf<Param>,
    #[module(skip)]
    input: Dtype,
    #[module(skip)]
    spec: Spec,
}

impl Layer {
    fn load(s: &Spec, leaves: &Leaves, r: &Registry) -> Result<Layer> {
        let d = s.attention.hidden;
        let norm = |name: &str, kind: &NormSpec| Norm::load(leaves, name, kind, &[d]);
        let factor = |name: &str| leaves.param(name, &[d]);
        let attention = r.build_mixer(&s.attention, &leaves.at("self_attn"))?;
        let mut stored = None;
        attention.visit(&mut Path::new(), &mut |_, p| stored = stored.or(Some(p.dtype()).filter(|t| t.is_float())));
        Ok(Layer {
            input_norm: norm("input_layernorm", &s.norm)?,
            attention: Leaf::new("self_attn", attention),
            attn_alpha: factor("add_attn_alpha")?,
            attn_beta: factor("add_attn_beta")?,
            ffn_norm: norm("pre_feedforward_layernorm", &s.norm)?,
            mlp: Leaf::new("mlp", r.build_ffn(&s.moe, &leaves.at("mlp"))?),
            post_ffn_norm: norm("post_feedforward_layernorm", &s.post_norm)?,
            ffn_alpha: factor("add_ffn_alpha")?,
            ffn_beta: factor("add_ffn_beta")?,
            input: stored.unwrap_or(Dtype::Bfloat16),
            spec: s.clone(),
        })
    }
}

/// x / rms(x) as separate ops.
fn unfused_rms(x: &Array, eps: f32) -> Array {
    let wide = x.astype(Dtype::Float32);
    let scale = (wide.square().mean_keepdims(-1) + eps).rsqrt();
    (wide * scale).astype(x.dtype())
}

impl Layer {
    /// The stream from embeddings, and what the first layer's attention gets. A last bit of either norm could become a
    /// whole one of bf16: both are computed in the reference's order.
    fn first(&self, embeddings: &Array) -> (Array, Array) {
        let eps = self.spec.norm.eps;
        let x = unfused_rms(embeddings, eps).astype(Dtype::Float32);
        let normed = unfused_rms(&x, eps);
        let weighted = self.input_norm.rms().map_or(normed.clone(), |(w, _)| normed * w);
        (x, weighted.astype(Dtype::Bfloat16))
    }
}

impl Block for Layer {
    fn forward(&self, x: Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let wide = |a: &Array| a.astype(Dtype::Float32);
        let mix = |x: &Array, y: &Array, alpha: &Param, beta: &Param| x * wide(alpha) + wide(y) * wide(beta);
        let (x, input) = match self.spec.first {
            true => self.first(&x),
            false => (wide(&x), self.input_norm.forward(&wide(&x)).astype(self.input)),
        };
        let y = self.attention.forward(&input, step, cache);
        let h = mix(&x, &fast::rms_norm(&y, None, self.spec.post_norm.eps), &self.attn_alpha, &self.attn_beta);
        let y = self.mlp.forward(&self.ffn_norm.forward(&h).astype(y.dtype()), step);
        mix(&h, &self.post_ffn_norm.forward(&y), &self.ffn_alpha, &self.ffn_beta)
    }
}
