//! Ling (bailing): one matrix for q, k, v, softmax or sigmoid router with groups, shared experts.

use super::Family;
use super::common::{groups, Dims, dims, plain_checkpoint, rms, size, size_or, stack_experts, swiglu, tied_or};
use crate::Result;
use crate::blueprint::{
    Attention, Blueprint, Branch, FusedQkv, Groups, Layer, Mlp, Moe, QkNormKind, Rope, Router, Scoring,
};
use crate::config::Config;
use crate::weights::Tensors;

pub const FAMILY: Family = Family { model_types: &["bailing_moe"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: d.hidden / d.heads, ..d };
    let bias = c.flag_or("use_bias", false)?;
    let config = c.rope()?;
    let rotated = match c.opt_usize("rotary_dim")? {
        Some(n) => n as i32,
        None => (d.head_dim as f64 * config.partial_rotary_factor.unwrap_or(1.0)) as i32,
    };
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::from_config(&config, rotated, 10_000.0))
        .fused("query_key_value", FusedQkv::Blocks)
        .output("dense");
    (mixer.qkv_bias, mixer.o_bias) = (c.flag_or("use_qkv_bias", false)?, bias);
    if c.flag_or("use_qk_norm", false)? {
        mixer = mixer.qk_norm_named(QkNormKind::PerHead, rms(&d), "query_layernorm", "key_layernorm", false);
    }
    let groups = Groups { top: size_or(c, "topk_group", 4)?, ..groups(c, size(c, "num_experts")?)? };
    let top_k = size(c, "num_experts_per_tok")?;
    let renormalise = top_k > 1 && c.flag("norm_topk_prob")?;
    let mut router = Router::noaux(Some(groups), renormalise, c.f32_or("routed_scaling_factor", 1f32)?);
    router.name = "gate.gate_proj".into();
    router.correction = c.flag_or("moe_router_enable_expert_bias", false)?.then(|| "gate.expert_bias".into());
    if c.str_or("score_function", "softmax")? != "sigmoid" {
        router.scoring = Scoring::Softmax;
    }
    let inner = size(c, "moe_intermediate_size")?;
    let mut moe = Moe::swiglu(d.hidden, inner, size(c, "num_experts")?, top_k, router);
    moe.bias = bias;
    let shared = size(c, "num_shared_experts")?;
    if shared > 0 && c.flag_or("moe_router_enable_shared_expert", true)? {
        let width = size_or(c, "moe_shared_expert_intermediate_size", inner)? * shared;
        moe = moe.shared("shared_experts", Mlp::swiglu(d.hidden, width).bias(bias), None);
    }
    let dense = size(c, "first_k_dense_replace")?;
    let layers = (0..d.layers)
        .map(|i| {
            let name = "post_attention_layernorm";
            let ffn = match i < dense {
                true => Branch::ffn(name, rms(&d), "mlp", swiglu(&d).bias(bias)),
                false => Branch::ffn(name, rms(&d), "mlp", moe.clone()),
            };
            Layer::sequential([Branch::mixer("input_layernorm", rms(&d), "attention", mixer.clone()), ffn])
        })
        .collect();
    let b = Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, layers);
    Ok(b.paths("model.word_embeddings", "model.layers", "model.norm"))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    if c.flag_or("norm_head", false)? {
        t.unit_columns("lm_head.weight", 1e-7)?;
    }
    for name in t.select(|n| n.ends_with(".mlp.gate.weight")) {
        t.rename(&name, name.replace(".gate.weight", ".gate.gate_proj.weight"))?;
    }
    stack_experts(t, size(c, "num_hidden_layers")?, size(c, "num_experts")?, "mlp.experts", "mlp.switch_mlp")
}
