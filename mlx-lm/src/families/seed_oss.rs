//! Seed-OSS: llama with separate switches for the biases of q, k, v and of the output.

use super::Family;
use super::common::{attention, dims, llama_shape, plain_checkpoint, swiglu};
use crate::Result;
use crate::blueprint::Blueprint;
use crate::config::Config;
use crate::weights::Tensors;

pub const FAMILY: Family = Family { model_types: &["seed_oss"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?;
    mixer.qkv_bias = c.flag_or("attention_bias", false)?;
    mixer.o_bias = c.flag_or("attention_out_bias", false)?;
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    Ok(llama_shape(&d, mixer, mlp, c.tie_word_embeddings()?.unwrap_or(true)))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    if c.tie_word_embeddings()?.unwrap_or(true) {
        t.drop_where(|n| n.starts_with("lm_head."));
    }
    plain_checkpoint(c, t)
}
