//! Nemotron (Minitron): layer norms stored as weight - 1, a plain squared-ReLU MLP, half of each head rotates.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["nemotron"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm { kind: NormKind::Layer { bias: true, offset: 1.0 }, eps: c.f32_or("norm_eps", 1e-5f32)? };
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::partial(&c.rope()?, d.head_dim, 0.5, 10_000.0))
        .bias(c.flag_or("attention_bias", false)?);
    let mlp =
        Mlp::plain(d.hidden, d.inner, Activation::Relu2, "up_proj", "down_proj").bias(c.flag_or("mlp_bias", false)?);
    let layer = pre_norms(norm, ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, mlp);
    Ok(alike(&d, norm, tied_or(c, false)?, layer))
}
