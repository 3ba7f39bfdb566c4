//! InternLM 3: llama with separate switches for attention and MLP biases.

use super::Family;
use super::common::{attention, dims, llama_shape, plain_checkpoint, swiglu, tied_or};
use crate::Result;
use crate::blueprint::{Blueprint};
use crate::config::Config;

pub const FAMILY: Family = Family { model_types: &["internlm3"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("qkv_bias", false)?);
    Ok(llama_shape(&d, mixer, swiglu(&d).bias(c.flag_or("bias", false)?), tied_or(c, false)?))
}
