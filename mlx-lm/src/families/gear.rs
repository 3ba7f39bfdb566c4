//! Gear: sandwich norms stored as weight - 1; layers are full, sliding, or gated products of convolved keys and values.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gear"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::rms_offset(d.eps, 1.0);
    let types = c.opt_strings("layer_types")?.unwrap_or_else(|| vec!["full_attention".into(); d.layers as usize]);
    if types.len() != d.layers as usize {
        return Err(c.error("layer_types", format!("{} types for {} layers", types.len(), d.layers)));
    }
    let name = c.str_or("hidden_activation", "gelu_pytorch_tanh")?;
    let Some(act) = Activation::from_name(name) else {
        return Err(c.error("hidden_activation", format!("unknown activation {name:?}")));
    };
    let bias = c.flag_or("attention_bias", false)?;
    let scale = c.f32_or("query_pre_attn_scalar", d.head_dim as f32)?.powf(-0.5);
    let local = c.f64_or("rope_local_base_freq", 10_000f64)?;
    let layers = types
        .iter()
        .map(|kind| {
            let mut full = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
                .scale(scale)
                .bias(bias)
                .qk_norm(QkNormKind::PerHead, norm);
            full.softcap = c.opt_f32("attn_logit_softcapping")?.filter(|&cap| cap != 0.0);
            let mixer = match kind.as_str() {
                "conv_mixer" => {
                    let taps = size_or(c, "conv_L_cache", 3)?;
                    let part = ConvGate {
                        hidden: d.hidden,
                        heads: d.heads,
                        kv_heads: d.kv_heads,
                        head_dim: d.head_dim,
                        taps,
                        bias,
                        norm,
                    };
                    Branch::mixer("input_layernorm", norm, "local_mixer", part)
                }
                "sliding_attention" => {
                    let mixer = full.rope(Rope::plain(d.head_dim, local)).sliding(size_or(c, "sliding_window", 512)?);
                    Branch::mixer("input_layernorm", norm, "self_attn", mixer)
                }
                "full_attention" => {
                    let rope = Rope::from_config(&c.rope_for("full_attention")?, d.head_dim, 1_000_000.0);
                    Branch::mixer("input_layernorm", norm, "self_attn", full.rope(rope))
                }
                other => return Err(c.error("layer_types", format!("unknown kind {other:?}"))),
            };
            Ok(Layer::sequential([
                mixer.post_norm("post_attention_layernorm", norm),
                Branch::ffn("pre_feedforward_layernorm", norm, "mlp", Mlp::swiglu(d.hidden, d.inner).activation(act))
                    .post_norm("post_feedforward_layernorm", norm),
            ]))
        })
        .collect::<Result<_>>()?;
    let mut b = Blueprint::new(d.vocab, d.hidden, norm, tied_or(c, true)?, layers);
    b.embed.scale = Some(EmbedScale { value: (d.hidden as f32).sqrt(), round_bf16: false });
    b.head.softcap = c.opt_f32("final_logit_softcapping")?.filter(|&cap| cap != 0.0);
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.ends_with("embed_scale"));
    t.conv_last("key_conv.weight")?;
    t.conv_last("value_conv.weight")?;
    tied_checkpoint(c, t)
}
