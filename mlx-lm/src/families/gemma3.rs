//! Gemma 3 (text): sandwich norms stored as weight - 1, five sliding layers to one full, per-head norms on q and k.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gemma3", "gemma3_text"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::rms_offset(d.eps, 1.0);
    let pattern = size_or(c, "sliding_window_pattern", 6)?.max(1);
    let window = size_or(c, "sliding_window", 512)?;
    let scale = c.f32_or("query_pre_attn_scalar", 256f32)?.powf(-0.5);
    let local = c.f64_or("rope_local_base_freq", 10_000f64)?;
    let global: RopeConfig = c.rope_for("full_attention")?;
    let mut b = decoder(&d, norm, false, |i| {
        let mixer =
            Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).scale(scale).qk_norm(QkNormKind::PerHead, norm);
        let mixer = match i % pattern == pattern - 1 {
            true => mixer.rope(Rope::from_config(&global, d.head_dim, 1_000_000.0)),
            false => mixer.rope(Rope::plain(d.head_dim, local)).sliding(window),
        };
        let mlp = Mlp::swiglu(d.hidden, d.inner).activation(Activation::GeluTanh);
        let clip = |mut b: Branch| {
            b.clip_f16 = true;
            b
        };
        Layer::sequential([
            clip(
                Branch::mixer("input_layernorm", norm, "self_attn", mixer).post_norm("post_attention_layernorm", norm),
            ),
            clip(
                Branch::ffn("pre_feedforward_layernorm", norm, "mlp", mlp)
                    .post_norm("post_feedforward_layernorm", norm),
            ),
        ])
    });
    b.head.tied = Tied::IfAbsent;
    b.embed.scale = Some(EmbedScale { value: (d.hidden as f32).sqrt(), round_bf16: true });
    Ok(b)
}

fn checkpoint(_: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    t.drop_where(|n| n.ends_with("rotary_emb.inv_freq"));
    Ok(())
}
