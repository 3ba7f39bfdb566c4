//! InternLM 3: llama with separate switches for attention and MLP biases.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["internlm3"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("qkv_bias", false)?);
    Ok(llama_shape(&d, mixer, swiglu(&d).bias(c.flag_or("bias", false)?), tied_or(c, false)?))
}
