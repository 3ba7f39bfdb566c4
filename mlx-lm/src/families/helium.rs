//! Helium: llama with interleaved rotary pairs.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["helium"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_shared(c)?;
    let mut mixer = attention(c, &d)?;
    mixer.qkv_bias = c.flag_or("attention_bias", false)?;
    mixer.rope = mixer.rope.map(|r| r.traditional(true));
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    Ok(llama_shape(&d, mixer, mlp, tied_or(c, false)?))
}
