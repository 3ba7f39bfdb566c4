//! Step 3.5: per-head gates on attention, other head counts on sliding layers, rotary settings per layer, clipped SwiGLU.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["step3p5"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = Dims { kv_heads: size(c, "num_attention_groups")?, eps: c.f32_or("rms_norm_eps", 1e-5f32)?, ..dims(c)? };
    let slides = sliding_layers(c, d.layers, |i| i % 2 == 0)?;
    let sparse: Vec<i32> = match c.opt_str("moe_layers_enum")? {
        Some(list) => list.split(',').filter_map(|n| n.trim().parse().ok()).collect(),
        None => (1..d.layers).collect(),
    };
    let limits = |key: &str| c.opt_f64s(key).map(Option::unwrap_or_default);
    let (routed, shared) = (limits("swiglu_limits")?, limits("swiglu_limits_shared")?);
    let limit =
        |list: &[f64], i: i32| list.get(i as usize).map(|&l| l as f32).filter(|&l| l > 0.0).map(Clip::Activated);
    try_decoder(&d, rms(&d), false, |i| {
        let mixer = mixer(c, &d, i as usize, slides[i as usize])?;
        let dense = |inner: i32| Mlp { limit: limit(&shared, i), ..Mlp::swiglu(d.hidden, inner) };
        if !sparse.contains(&i) {
            return Ok(llama_layer(&d, mixer, dense(d.inner)));
        }
        let mut router =
            Router::noaux(None, c.flag_or("norm_expert_weight", true)?, c.f32_or("moe_router_scaling_factor", 3f32)?);
        router.name = "gate.gate".into();
        router.correction = Some("gate.router_bias".into());
        let (inner, experts) = (size_or(c, "moe_intermediate_size", 1280)?, size_or(c, "moe_num_experts", 288)?);
        let mut moe = Moe::swiglu(d.hidden, inner, experts, size_or(c, "moe_top_k", 8)?, router).shared(
            "share_expert",
            dense(size_or(c, "share_expert_dim", 1280)?),
            None,
        );
        if let Some(clip) = limit(&routed, i) {
            moe.body = Experts::Clipped { activation: Activation::Silu, clip };
        }
        Ok(llama_layer(&d, mixer, moe))
    })
}

fn mixer(c: &Config, d: &Dims, i: usize, slides: bool) -> Result<Attention> {
    let (mut heads, mut kv_heads) = (d.heads, d.kv_heads);
    if let (true, Some(other)) = (slides, c.opt_sub("attention_other_setting")?) {
        heads = other.usize("num_attention_heads")? as i32;
        kv_heads = other.usize("num_attention_groups")? as i32;
    }
    let rope = c.rope()?;
    let theta = match &rope.layer_thetas {
        Some(list) => list.get(i).copied().unwrap_or(10_000.0),
        None => rope.theta_or(10_000.0),
    };
    let share = c.opt_f64s("partial_rotary_factors")?.and_then(|l| l.get(i).copied()).unwrap_or(1.0);
    let dims = (d.head_dim as f64 * share) as i32;
    let kind = match c.opt_strings("layer_types")?.and_then(|t| t.get(i).cloned()) {
        Some(kind) => kind,
        None => "full_attention".to_string(),
    };
    let scaled = c.opt_strings("yarn_only_types")?.filter(|l| !l.is_empty()).is_none_or(|l| l.contains(&kind));
    let mut settings = rope.clone();
    settings.theta = Some(theta);
    let rope = if scaled { Rope::from_config(&settings, dims, theta) } else { Rope::plain(dims, theta) };
    let mut mixer =
        Attention::new(d.hidden, heads, kv_heads, d.head_dim).rope(rope).qk_norm(QkNormKind::PerHead, rms(d));
    if c.flag_or("use_head_wise_attn_gate", true)? {
        mixer.gate = Some(OutputGate::PerHead { name: "g_proj".into(), softplus: false });
    }
    Ok(if slides { mixer.sliding(size_or(c, "sliding_window", 512)?) } else { mixer })
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.contains(".mtp"));
    drop_extra_layers(t, size(c, "num_hidden_layers")?);
    let published =
        |n: &str| n.contains(".moe.") || (n.contains(".share_expert.") && !n.contains(".mlp.share_expert."));
    if t.select(published).is_empty() {
        return Ok(());
    }
    // published norms hold weight - 1
    t.shift_where(|n| n.ends_with(".weight") && n.contains("norm"), 1.0)?;
    t.rename_all(|n| {
        let n = n.replace(".moe.gate.", ".mlp.gate.gate.").replace(".moe.router_bias", ".mlp.gate.router_bias");
        let n = n.replace(".moe.", ".mlp.switch_mlp.");
        Some(if n.contains(".mlp.share_expert.") { n } else { n.replace(".share_expert.", ".mlp.share_expert.") })
    })
}
