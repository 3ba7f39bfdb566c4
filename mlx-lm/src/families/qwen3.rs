//! Qwen3: a pre-norm SwiGLU decoder with per-head norms on q and k.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["qwen3"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?).qk_norm(QkNormKind::PerHead, rms(&d));
    let layer =
        pre_norms(rms(&d), ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, swiglu(&d));
    let tied = tied_or(c, false)?;
    Ok(alike(&d, rms(&d), tied, layer))
}
