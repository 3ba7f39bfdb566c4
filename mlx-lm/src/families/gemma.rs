//! Gemma: RMS norms stored as weight - 1, GELU gate, embeddings times the root of the width, tied head.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gemma"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::rms_offset(d.eps, 1.0);
    let mlp = swiglu(&d).activation(Activation::Gelu);
    let layer = sandwich_layer(["input_layernorm", "", "post_attention_layernorm", ""], norm, attention(c, &d)?, mlp);
    let mut b = alike(&d, norm, true, layer);
    b.embed.scale = Some(EmbedScale { value: (d.hidden as f32).sqrt(), round_bf16: false });
    Ok(b)
}
