//! Kimi Linear: three KDA layers to one of latent attention without positions, bias-corrected experts.

use super::deepseek_v3::split_kv_b;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["kimi_linear"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let linear: Part = Rc::new(kda(c, &d)?);
    let latent: Part = Rc::new(mla(c, &d)?);
    let dense: Part = Rc::new(swiglu(&d));
    let sparse: Part =
        if size(c, "num_experts")? > 0 { Rc::new(moe(c, &d, 1, Activation::Silu)?) } else { dense.clone() };
    let plan = plan(c, &d)?;
    let layer = |l: LayerPlan| {
        let mixer = if l.linear { &linear } else { &latent };
        pre_norm_layer(&d, "self_attn", mixer, if l.sparse { &sparse } else { &dense })
    };
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, plan.into_iter().map(layer).collect()))
}

/// What a layer is made of.
#[derive(Clone, Copy)]
pub struct LayerPlan {
    pub linear: bool,
    pub sparse: bool,
}

/// Layers of KDA are listed from 1 on; experts come after the first dense ones, in every `moe_layer_freq`-th layer.
pub fn plan(c: &Config, d: &Dims) -> Result<Vec<LayerPlan>> {
    let listed = c.sub("linear_attn_config")?.opt_usizes("kda_layers")?.unwrap_or_default();
    let (first, every) = (size_or(c, "first_k_dense_replace", 0)?, size_or(c, "moe_layer_freq", 1)?.max(1));
    let layer = |i: i32| LayerPlan { linear: listed.contains(&(i as usize + 1)), sparse: i >= first && i % every == 0 };
    Ok((0..d.layers).map(layer).collect())
}

/// The KDA layers; the leaves of the convolutions lie in `q_conv.conv` and so on.
pub fn kda(c: &Config, d: &Dims) -> Result<Kda> {
    let linear = c.sub("linear_attn_config")?;
    let (heads, dim) = (size(&linear, "num_heads")?, size(&linear, "head_dim")?);
    let conv = size_or(&linear, "short_conv_kernel_size", 4)?;
    let heads = DeltaHeads::new(d.hidden, [heads; 2], [dim; 2], conv, d.eps);
    Ok(Kda {
        heads: check_heads(c, "linear_attn_config.num_heads", heads)?,
        qkv: QkvNames::Separate(["q", "k", "v"].map(|p| format!("{p}_conv.conv"))),
        lower_bound: None,
        decay: Projection::low_rank("f_a_proj", "f_b_proj", dim),
        gate: Projection::low_rank("g_a_proj", "g_b_proj", dim),
    })
}

pub fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    let (nope_dim, rope_dim) = (size_or(c, "qk_nope_head_dim", d.head_dim)?, size_or(c, "qk_rope_head_dim", 0)?);
    let parts = [nope_dim, rope_dim, size_or(c, "v_head_dim", d.head_dim)?];
    let m = Mla::new(d.hidden, d.heads, None, size(c, "kv_lora_rank")?, parts);
    Ok(Mla { eps: Some(d.eps), layout: MlaLayout::Absorbed, ..m })
}

/// Experts under Kimi's keys, and one MLP as wide as all shared ones; a token goes to `top_k` experts by default.
pub fn moe(c: &Config, d: &Dims, top_k: i32, act: Activation) -> Result<Moe> {
    let experts = size(c, "num_experts")?;
    let (top_k, inner) = (size_or(c, "num_experts_per_token", top_k)?, size(c, "moe_intermediate_size")?);
    let renormalise = top_k > 1 && c.flag_or("moe_renormalize", true)?;
    let groups = groups_at(c, "num_expert_group", experts)?;
    let mut router = Router::noaux(Some(groups), renormalise, c.f32_or("routed_scaling_factor", 1f32)?);
    router.correction = Some("e_score_correction_bias".into());
    router.scoring = match c.str_or("moe_router_activation_func", "sigmoid")? {
        "sigmoid" => Scoring::Sigmoid,
        "softmax" => Scoring::Softmax,
        other => return Err(c.error("moe_router_activation_func", format!("unknown scores {other:?}"))),
    };
    let moe = Moe::swiglu(d.hidden, inner, experts, top_k, router);
    Ok(match size_or(c, "num_shared_experts", 0)? {
        0 => moe,
        n => moe.shared("shared_experts", Mlp::swiglu(d.hidden, inner * n).activation(act), None),
    })
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = dims(c)?;
    t.drop_where(|n| n.starts_with("model.mtp"));
    plain_checkpoint(c, t)?;
    published_names(c, t, &d)?;
    split_kv_b(&mla(c, &d)?, t, d.layers)
}

/// Experts and convolutions as published: `block_sparse_moe`, w1, w2, w3, `q_conv1d`.
pub fn published_names(c: &Config, t: &mut Tensors, d: &Dims) -> Result<()> {
    let names = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];
    let experts = size_or(c, "num_experts", 0)?;
    stack_experts_named(t, d.layers, experts, "block_sparse_moe.experts", "mlp.switch_mlp", &names)?;
    t.rename_all(|n| {
        let n = n.replace(".block_sparse_moe.gate.e_score", ".mlp.e_score").replace(".block_sparse_moe.", ".mlp.");
        let convs = ["q", "k", "v"].map(|p| (format!(".{p}_conv1d."), format!(".{p}_conv.conv.")));
        Some(convs.iter().fold(n, |n, (from, to)| n.replace(from, to)))
    })?;
    t.conv_last("_conv.conv.weight")
}
