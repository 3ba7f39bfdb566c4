//! Qwen2: llama with biases on q, k and v.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["qwen2"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?;
    mixer.qkv_bias = true;
    let layer =
        pre_norms(rms(&d), ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, swiglu(&d));
    let tied = tied_or(c, true)?;
    Ok(alike(&d, rms(&d), tied, layer))
}
