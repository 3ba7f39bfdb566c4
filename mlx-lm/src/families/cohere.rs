//! Cohere Command R: layer norm, attention and MLP in parallel, interleaved rotary pairs, scaled logits.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["cohere"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::layer(c.f32_or("layer_norm_eps", 1e-5f32)?, c.flag_or("layer_norm_bias", false)?);
    let head_dim = d.hidden / d.heads;
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, head_dim)
        .rope(Rope::from_config(&c.rope()?, head_dim, 8_000_000.0).traditional(true))
        .bias(c.flag_or("attention_bias", false)?);
    if c.flag_or("use_qk_norm", false)? {
        mixer = mixer.qk_norm(QkNormKind::RowPerHead, Norm::layer(norm.eps, false));
    }
    let layer = parallel(norm, ["input_layernorm", "self_attn", "mlp"], mixer, swiglu(&d));
    let mut b = alike(&d, norm, true, layer);
    b.head.scale = c.f32_or("logit_scale", 0.0625f32)?;
    Ok(b)
}
