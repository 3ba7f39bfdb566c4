//! LFM2, dense, with experts, and the text side of lfm2-vl: gated short convolutions between attention layers.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["lfm2", "lfm2_moe", "lfm2-vl", "lfm2_vl"], blueprint, checkpoint };

fn has_experts(c: &Config) -> bool {
    c.model_type() == "lfm2_moe"
}

fn prefix(c: &Config) -> &'static str {
    if c.is_wrapper() { "language_model." } else { "" }
}

fn blueprint(c: &Config) -> Result<Blueprint> {
    let mut d = read_dims(c, "num_hidden_layers")?;
    (d.eps, d.head_dim) = (c.f32("norm_eps")?, d.hidden / d.heads);
    let rope = Rope::plain(d.head_dim, c.rope()?.theta_or(1_000_000.0));
    let mut attention = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).rope(rope);
    attention.o = "out_proj".into();
    attention.qk_norm = Some(QkNorm {
        kind: QkNormKind::PerHead,
        norm: rms(&d),
        q: "q_layernorm".into(),
        k: "k_layernorm".into(),
        after_rope: false,
    });
    let conv = ShortConv { hidden: d.hidden, kernel: size(c, "conv_L_cache")?, bias: c.flag("conv_bias")? };
    let full = match c.opt_usizes("full_attn_idxs")? {
        Some(list) => list,
        None => c
            .strings("layer_types")?
            .iter()
            .enumerate()
            .filter(|(_, t)| *t == "full_attention")
            .map(|(i, _)| i)
            .collect(),
    };
    let moe = if has_experts(c) { Some((experts(c, d.hidden)?, size(c, "num_dense_layers")?)) } else { None };
    let mlp = match &moe {
        Some(_) => Mlp::swiglu(d.hidden, size(c, "intermediate_size")?),
        None => dense(c)?,
    };
    let mut b = decoder(&d, rms(&d), true, |i| {
        let mixer = match full.contains(&(i as usize)) {
            true => Branch::mixer("operator_norm", rms(&d), "self_attn", attention.clone()),
            false => Branch::mixer("operator_norm", rms(&d), "conv", conv.clone()),
        };
        let ffn = match &moe {
            Some((moe, first)) if i >= *first => Branch::ffn("ffn_norm", rms(&d), "feed_forward", moe.clone()),
            _ => Branch::ffn("ffn_norm", rms(&d), "feed_forward", mlp.clone()),
        };
        Layer::sequential([mixer, ffn])
    });
    let p = prefix(c);
    b.norm = Some((format!("{p}model.embedding_norm"), rms(&d)));
    (b.embed.path, b.layers_path) = (format!("{p}model.embed_tokens"), format!("{p}model.layers"));
    Ok(b)
}

/// w1, w3, w2, with the width rounded as the config says.
fn dense(c: &Config) -> Result<Mlp> {
    let key = if c.has("block_ff_dim") { "block_ff_dim" } else { "intermediate_size" };
    let mut width = size(c, key)?;
    if c.flag("block_auto_adjust_ff_dim")? {
        let factor = c.f64_or("block_ffn_dim_multiplier", 1.0f64)?;
        let multiple = size(c, "block_multiple_of")?.max(1);
        width = (factor * (2 * width / 3) as f64) as i32;
        width = (width + multiple - 1) / multiple * multiple;
    }
    let names = MlpNames::Gated { gate: "w1".into(), up: "w3".into(), down: "w2".into() };
    Ok(Mlp::swiglu(size_or(c, "block_dim", size(c, "hidden_size")?)?, width).named(names))
}

fn experts(c: &Config, hidden: i32) -> Result<Moe> {
    let mut router = Router::noaux(None, true, c.f32_or("routed_scaling_factor", 1.0f32)?);
    router.f32 = false;
    router.correction = c.flag("use_expert_bias")?.then(|| "expert_bias".into());
    router.weights =
        if c.flag("norm_topk_prob")? { RouterWeights::Normalised { eps: 1e-6 } } else { RouterWeights::Scores };
    let (width, n) = (size(c, "moe_intermediate_size")?, size(c, "num_experts")?);
    Ok(Moe::swiglu(hidden, width, n, size(c, "num_experts_per_tok")?, router))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.starts_with("vision_tower.") || n.starts_with("multi_modal_projector."));
    t.conv_last("conv.weight")?;
    if !has_experts(c) {
        return Ok(());
    }
    t.rename_all(|n| {
        Some(n.replace(".w1.", ".gate_proj.").replace(".w2.", ".down_proj.").replace(".w3.", ".up_proj."))
    })?;
    let (layers, n) = (size(c, "num_hidden_layers")?, size(c, "num_experts")?);
    stack_experts(t, layers, n, "feed_forward.experts", "feed_forward.switch_mlp")
}
