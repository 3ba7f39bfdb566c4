//! Gemma 2: gemma with norms on the outputs too, capped attention scores and logits.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gemma2"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::rms_offset(d.eps, 1.0);
    let mut mixer = attention(c, &d)?.scale(c.f32_or("query_pre_attn_scalar", 144f32)?.powf(-0.5));
    mixer.softcap = Some(c.f32_or("attn_logit_softcapping", 50f32)?);
    let norms =
        ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"];
    let layer = sandwich_layer(norms, norm, mixer, swiglu(&d).activation(Activation::GeluTanh));
    let mut b = alike(&d, norm, true, layer);
    b.embed.scale = Some(EmbedScale { value: (d.hidden as f32).sqrt(), round_bf16: false });
    b.head.softcap = Some(c.f32_or("final_logit_softcapping", 30f32)?);
    Ok(b)
}
