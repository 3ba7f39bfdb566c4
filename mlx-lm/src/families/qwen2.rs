//! Qwen2: llama with biases on q, k and v.

use super::Family;
use super::common::{attention, dims, plain_checkpoint, rms, swiglu};
use crate::Result;
use crate::blueprint::{Blueprint, Branch, Layer};
use crate::config::Config;
use crate::weights::Tensors;

pub const FAMILY: Family = Family { model_types: &["qwen2"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?;
    mixer.qkv_bias = true;
    let layer = Layer::sequential([
        Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer),
        Branch::ffn("post_attention_layernorm", rms(&d), "mlp", swiglu(&d)),
    ]);
    let tied = c.tie_word_embeddings()?.unwrap_or(true);
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied, vec![layer; d.layers as usize]))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    if c.tie_word_embeddings()?.unwrap_or(true) {
        t.drop_where(|n| n.starts_with("lm_head."));
    }
    Ok(())
}
