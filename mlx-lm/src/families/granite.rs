//! Granite: llama with multipliers on embeddings, attention, residuals and logits.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["granite"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?).scale(c.f32("attention_multiplier")?);
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    let mut b = llama_shape(&d, mixer, mlp, tied_or(c, true)?);
    scale_branches(&mut b, c.f32("residual_multiplier")?);
    b.embed.scale = Some(EmbedScale { value: c.f32("embedding_multiplier")?, round_bf16: false });
    b.head.scale = 1.0 / c.f32("logits_scaling")?;
    Ok(b)
}

/// A factor on every residual branch.
pub fn scale_branches(b: &mut Blueprint, scale: f32) {
    for layer in &mut b.layers {
        if let LayerBody::Sequential(branches) = &mut layer.body {
            branches.iter_mut().for_each(|branch| branch.scale = scale);
        }
    }
}
