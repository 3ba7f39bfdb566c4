//! DeepSeek-V3 (kimi_k2, joyai_llm_flash; the text of kimi_vl and kimi_k25) and GLM-4.7-Flash: latent attention, experts
//! chosen by bias-corrected sigmoids within groups.

use super::prelude::*;

pub const FAMILY: Family =
    Family { model_types: &["deepseek_v3", "glm4_moe_lite", "kimi_vl", "kimi_k25"], blueprint, checkpoint };

fn lite(c: &Config) -> bool {
    c.model_type() == "glm4_moe_lite"
}

fn sizes(c: &Config) -> Result<Dims> {
    let d = dims(c)?;
    Ok(if lite(c) { Dims { eps: c.f32_or("rms_norm_eps", 1e-5f32)?, ..d } } else { d })
}

fn blueprint(c: &Config) -> Result<Blueprint> {
    with_attention(c, mla(c, &sizes(c)?)?)
}

/// The decoder of the family around this attention.
pub fn with_attention(c: &Config, mla: Mla) -> Result<Blueprint> {
    let d = sizes(c)?;
    let experts = size_or(c, "n_routed_experts", if lite(c) { 64 } else { 0 })?;
    let first = size_or(c, "first_k_dense_replace", lite(c) as i32)?;
    let every = size_or(c, "moe_layer_freq", 1)?.max(1);
    let moe = if experts > 0 { Some(moe(c, &d, experts)?) } else { None };
    let sparse = |i| moe.as_ref().filter(|_| i >= first && i % every == 0);
    Ok(decoder(&d, rms(&d), false, |i| mixed_layer(&d, mla.clone(), sparse(i))))
}

/// The attention of the family, with YaRN's factor in its scale.
pub fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    let rope = c.rope()?;
    let (nope_dim, rope_dim) = (size_or(c, "qk_nope_head_dim", 128)?, size_or(c, "qk_rope_head_dim", 64)?);
    // an explicit null has no bottleneck, an absent key the default one
    let q_rank = match c.opt_usize("q_lora_rank")? {
        Some(r) => Some(fit(c, "q_lora_rank", r)?),
        None if c.is_null("q_lora_rank") => None,
        None => Some(if lite(c) { 768 } else { 1536 }),
    };
    let v_dim = size_or(c, "v_head_dim", if lite(c) { 256 } else { 128 })?;
    let theta = if lite(c) { 1_000_000.0 } else { 10_000.0 };
    Ok(Mla {
        bias: c.flag_or("attention_bias", false)?,
        eps: Some(if lite(c) { d.eps } else { 1e-6 }),
        scale: ((nope_dim + rope_dim) as f32).powf(-0.5) * yarn_scale(&rope),
        // pairs are neighbours unless the config says that they are halves
        rope: Some(Rope::from_config(&rope, rope_dim, theta).traditional(c.flag_or("rope_interleave", true)?)),
        layout: MlaLayout::Absorbed,
        ..Mla::new(d.hidden, d.heads, q_rank, size_or(c, "kv_lora_rank", 512)?, [nope_dim, rope_dim, v_dim])
    })
}

/// What YaRN multiplies the scale of attention with.
pub fn yarn_scale(rope: &RopeConfig) -> f32 {
    match &rope.kind {
        RopeKind::Yarn(y) if y.mscale_all_dim != 0.0 && y.factor > 1.0 => {
            (0.1 * y.mscale_all_dim * y.factor.ln() + 1.0).powi(2) as f32
        }
        _ => 1.0,
    }
}

fn moe(c: &Config, d: &Dims, experts: i32) -> Result<Moe> {
    let groups = groups(c, experts)?;
    let top_k = size_or(c, "num_experts_per_tok", if lite(c) { 4 } else { 1 })?;
    let normalise = c.flag_or("norm_topk_prob", true)? && top_k > 1;
    let mut router =
        Router::noaux(Some(groups), normalise, c.f32_or("routed_scaling_factor", if lite(c) { 1.8f32 } else { 1.0 })?);
    if normalise && !lite(c) {
        router.weights = RouterWeights::Normalised { eps: 0.0 };
    }
    let inner = size(c, "moe_intermediate_size")?;
    let moe = Moe::swiglu(d.hidden, inner, experts, top_k, router);
    Ok(moe.shared_experts(inner * size_or(c, "n_shared_experts", lite(c) as i32)?))
}

pub fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = dims(c)?;
    text_names(t)?;
    t.drop_where(|n| n.ends_with("rotary_emb.inv_freq"));
    // layers behind the last one predict further tokens
    drop_extra_layers(t, d.layers);
    let experts = size_or(c, "n_routed_experts", 0)?;
    if experts > 0 {
        stack_experts(t, d.layers, experts, "mlp.experts", "mlp.switch_mlp")?;
        split_fused_experts(t, size(c, "moe_intermediate_size")?, "mlp.experts", "mlp.switch_mlp")?;
    }
    split_kv_b(&mla(c, &d)?, t, d.layers)
}

/// [`split_kv_b_at`] for every layer's `self_attn`.
pub fn split_kv_b(m: &Mla, t: &mut Tensors, layers: i32) -> Result<()> {
    (0..layers).try_for_each(|l| split_kv_b_at(m, t, &format!("model.layers.{l}.self_attn")))
}

/// `kv_b_proj` [H (nope + v), rank] becomes `embed_q` [H, rank, nope] and `unembed_out` [H, v, rank]; a packed one is
/// packed again in its own form.
pub fn split_kv_b_at(m: &Mla, t: &mut Tensors, at: &str) -> Result<()> {
    let parts = [(m.nope_dim, format!("{at}.embed_q"), true), (m.v_dim, format!("{at}.unembed_out"), false)];
    foreign::split_heads(t, &format!("{at}.kv_b_proj"), m.heads, m.kv_rank, &parts).map_err(|e| match e {
        Error::Mlx(e) => Error::tensor(format!("{at}.kv_b_proj"), e.to_string()),
        e => e,
    })
}
