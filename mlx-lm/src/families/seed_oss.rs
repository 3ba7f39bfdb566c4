//! Seed-OSS: llama with separate switches for the biases of q, k, v and of the output.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["seed_oss"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?;
    mixer.qkv_bias = c.flag_or("attention_bias", false)?;
    mixer.o_bias = c.flag_or("attention_out_bias", false)?;
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    Ok(llama_shape(&d, mixer, mlp, tied_or(c, true)?))
}
