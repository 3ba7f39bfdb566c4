//! Qwen3-Next and Qwen3.5 (dense and MoE): three Gated DeltaNet layers to one of gated softmax attention.

use super::prelude::*;

pub const FAMILY: Family = Family {
    model_types: &["qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text"],
    blueprint,
    checkpoint,
};

fn is_next(c: &Config) -> bool {
    c.model_type() == "qwen3_next"
}

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let mut d = if size_or(c, "num_experts", 0)? > 0 { dims_of_experts(c)? } else { dims(c)? };
    if !is_next(c) {
        d.kv_heads = size_or(c, "num_key_value_heads", 8)?;
    }
    let rope = c.rope()?;
    let theta = if is_next(c) { 10_000.0 } else { 100_000.0 };
    let mut partial = rope.partial_rotary_factor.unwrap_or(0.25);
    let mut rope = rope;
    if !is_next(c) {
        // only rope_parameters count: the top-level keys are not read
        let own = c.opt_sub("rope_parameters")?;
        let read = |key: &str| own.as_ref().map_or(Ok(None), |p| p.opt_f64(key));
        (rope.theta, partial) = (read("rope_theta")?, read("partial_rotary_factor")?.unwrap_or(0.25));
    }
    let rotated = (d.head_dim as f64 * partial) as i32;
    let mut full = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .bias(c.flag_or("attention_bias", false)?)
        .qk_norm(QkNormKind::PerHead, rms(&d))
        .rope(Rope::from_config(&rope, rotated, theta));
    full.gate = Some(OutputGate::InQuery);
    let heads = [size_or(c, "linear_num_key_heads", 16)?, size_or(c, "linear_num_value_heads", 64)?];
    let widths = [size_or(c, "linear_key_head_dim", 192)?, size_or(c, "linear_value_head_dim", 128)?];
    let heads = DeltaHeads::new(d.hidden, heads, widths, size_or(c, "linear_conv_kernel_dim", 4)?, d.eps);
    let layout = if is_next(c) { GatedDeltaLayout::Packed } else { GatedDeltaLayout::Joined };
    let linear = GatedDelta { heads: check_heads(c, "linear_num_value_heads", heads)?, layout, gate: true };
    let interval = size_or(c, "full_attention_interval", 4)?.max(1);
    let experts = size_or(c, "num_experts", 0)?;
    let dense_only = c.opt_usizes("mlp_only_layers")?.unwrap_or_default();
    let every = size_or(c, "decoder_sparse_step", 1)?.max(1);
    let moe = match experts {
        0 => None,
        n => {
            let router = Router::softmax(c.flag_or("norm_topk_prob", !is_next(c))?);
            let moe =
                Moe::swiglu(d.hidden, size(c, "moe_intermediate_size")?, n, size(c, "num_experts_per_tok")?, router);
            let shared = Mlp::swiglu(d.hidden, size(c, "shared_expert_intermediate_size")?);
            Some(moe.shared("shared_expert", shared, Some("shared_expert_gate")))
        }
    };
    let b = decoder(&d, rms(&d), tied_or(c, false)?, |i| {
        let mixer = match (i + 1) % interval == 0 {
            true => Branch::mixer("input_layernorm", rms(&d), "self_attn", full.clone()),
            false => Branch::mixer("input_layernorm", rms(&d), "linear_attn", linear.clone()),
        };
        let sparse = !dense_only.contains(&(i as usize)) && (i + 1) % every == 0;
        let ffn = match &moe {
            Some(m) if sparse => Branch::ffn("post_attention_layernorm", rms(&d), "mlp", m.clone()),
            _ => Branch::ffn("post_attention_layernorm", rms(&d), "mlp", swiglu(&d)),
        };
        Layer::sequential([mixer, ffn])
    });
    Ok(if matches!(c.model_type(), "qwen3_5" | "qwen3_5_moe") { b.wrapped() } else { b })
}

pub fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    t.drop_where(|n| n.contains("mtp."));
    plain_checkpoint(c, t)?;
    let (layers, experts) = (size(c, "num_hidden_layers")?, size_or(c, "num_experts", 0)?);
    let published_experts = t.names().any(|n| n.contains(".mlp.experts.0."));
    let published_conv =
        t.names().any(|n| n.ends_with("conv1d.weight") && t.shape(n).is_some_and(|s| s.last() != Some(&1)));
    if experts > 0 {
        stack_experts(t, layers, experts, "mlp.experts", "mlp.switch_mlp")?;
        split_fused_experts(t, size(c, "moe_intermediate_size")?, "mlp.experts", "mlp.switch_mlp")?;
    }
    t.conv_last("conv1d.weight")?;
    // published norms are stored as weight - 1; the layout of other tensors tells whether this checkpoint is published
    if if is_next(c) { published_experts } else { published_conv } {
        let norms = [
            "input_layernorm.weight",
            "post_attention_layernorm.weight",
            "model.norm.weight",
            "q_norm.weight",
            "k_norm.weight",
        ];
        t.shift_where(|n| norms.iter().any(|s| n.ends_with(s)), 1.0)?;
    }
    Ok(())
}
