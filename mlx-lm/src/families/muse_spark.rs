//! Muse Spark: experts at a narrower width, windows, and learned factors that mix a float32 stream with its branches.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["muse_spark"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_of_experts(c)?;
    let dense = c.opt_strings("mlp_layer_types")?.is_some_and(|t| t.iter().any(|t| t != "sparse"));
    if dense || c.usize_or("num_shared_experts", 0usize)? > 0 {
        return Err(c.error("mlp_layer_types", "dense and shared feed-forward layers are not supported"));
    }
    let (norm, post_eps) = (Norm::rms(d.eps), c.f32("post_norm_eps")?);
    let post_norm = Norm { kind: NormKind::RmsOfWeighted, eps: post_eps };
    let (types, thetas) = (c.strings("layer_types")?, c.f64s("layer_rope_theta")?);
    let (window, rope) = (size(c, "sliding_window")?, Rope::from_config(&c.rope()?, d.head_dim, 10_000.0));
    let moe = experts(c, &d, post_norm)?;
    let layer = |i: usize| {
        let (Some(kind), Some(&theta)) = (types.get(i), thetas.get(i)) else {
            return Err(c.error("layer_types", format!("no entry, or none of layer_rope_theta, for layer {i}")));
        };
        let mut attention = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
            .qk_norm(QkNormKind::PerHead, Norm::rms_plain(d.eps))
            .scale((d.head_dim as f32).powf(-0.5) * c.f32_or("qk_scale_factor", 5.473_006_5f32)?);
        attention.head_norm = Some(Norm::rms_plain(d.eps));
        attention.gate = Some(OutputGate::Full { name: "gate_proj".into() });
        // a theta of 0 marks a layer without positions
        attention.rope = (theta != 0.0).then(|| rope.clone().traditional(true));
        let attention = if kind == "sliding_attention" { attention.sliding(window) } else { attention };
        Ok(Layer::custom(GatedLayer { attention, moe: moe.clone(), norm, post_norm, first: i == 0 }))
    };
    let layers = (0..d.layers as usize).map(layer).collect::<Result<Vec<_>>>()?;
    let at = |name: &str| format!("model.language_model.{name}");
    let mut b =
        Blueprint::new(d.vocab, d.hidden, norm, false, layers).paths(&at("embed_tokens"), &at("layers"), &at("norm"));
    b.head.scale = c.f32("output_multiplier")?;
    b.head.softcap = Some(c.f32("final_logit_softcapping")?);
    b.head.bf16_input = true;
    Ok(b)
}

fn experts(c: &Config, d: &Dims, post_norm: Norm) -> Result<Moe> {
    let mut router = Router::noaux(None, true, c.f32_or("routed_scaling_factor", 1.0f32)?);
    router.temperature = 1.0 / c.f32("output_multiplier")?;
    router.weights = RouterWeights::Normalised { eps: 1e-15 };
    let (inner, experts) = (size(c, "moe_intermediate_size")?, size(c, "num_local_experts")?);
    let mut moe = Moe::swiglu(d.hidden, inner, experts, size(c, "num_experts_per_tok")?, router);
    moe.experts_name = "experts".into();
    moe.latent = Some(Latent {
        width: size(c, "moe_hidden_size")?,
        down: "pre_expert_proj".into(),
        up: "post_expert_proj".into(),
        bias: false,
        input_norm: Some(("pre_expert_norm".into(), Norm::rms(d.eps))),
        expert_norm: Some(("experts.post_expert_norm".into(), post_norm)),
        norm: None,
    });
    Ok(moe)
}

/// A converted checkpoint joins q, k, v and gate. A published one stores norms less 1, gates before their formula, gate
/// and up rows of experts in one tensor, and rows of q and k for rotation by halves.
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = dims_of_experts(c)?;
    let others = ["audio_tower.", "vision_tower.", "vision_adapter.", "vision_projection."];
    t.drop_where(|n| n.strip_prefix("model.").is_some_and(|n| others.iter().any(|o| n.starts_with(o))));
    let published = !t.names().any(|n| n.ends_with("_alpha"));
    let (q, kv, inner) = (d.heads * d.head_dim, d.kv_heads * d.head_dim, size(c, "moe_intermediate_size")?);
    for l in 0..d.layers {
        let at = |name: &str| format!("model.language_model.layers.{l}.{name}");
        let [q_proj, k_proj, v_proj, gate] = ["q", "k", "v", "gate"].map(|p| at(&format!("self_attn.{p}_proj.weight")));
        if t.has(&at("self_attn.qkvg_proj.weight")) {
            let parts = [(q, q_proj.as_str()), (kv, &k_proj), (kv, &v_proj), (q, &gate)];
            t.split(&at("self_attn.qkvg_proj.weight"), 0, &parts)?;
        }
        if !published {
            continue;
        }
        for name in [&q_proj, &k_proj] {
            t.interleave_halves(name, d.head_dim)?;
        }
        for (from, to) in [("attention", "attn"), ("feedforward", "ffn")] {
            let to = ["alpha", "beta"].map(|f| at(&format!("add_{to}_{f}")));
            foreign::residual_gate(t, &at(&format!("post_{from}_residual_gate.gate")), &to)?;
        }
        let [gate, up, down] = ["gate", "up", "down"].map(|p| at(&format!("mlp.experts.{p}_proj")));
        let (joined, outward) = (at("mlp.experts.gate_up_proj"), at("mlp.experts.down_proj"));
        if !foreign::split_nvfp4_experts(t, &joined, &[gate.clone(), up.clone()])? {
            t.split(&joined, 1, &[(inner, &format!("{gate}.weight")), (inner, &format!("{up}.weight"))])?;
        }
        if !foreign::split_nvfp4_experts(t, &outward, std::slice::from_ref(&down))? {
            t.rename(&outward, format!("{down}.weight"))?;
        }
    }
    if !published {
        return Ok(());
    }
    let norms = ["input_layernorm", "feedforward_layernorm", "expert_norm"].map(|n| format!("{n}.weight"));
    let centred = |n: &str| n.contains(".layers.") && norms.iter().any(|s| n.ends_with(s));
    t.shift_where(centred, 1.0)?;
    t.round_bf16_where(centred)
}
