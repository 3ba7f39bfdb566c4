//! Qwen2: llama with biases on q, k and v.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["qwen2"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?;
    mixer.qkv_bias = true;
    let layer = Layer::sequential([
        Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer),
        Branch::ffn("post_attention_layernorm", rms(&d), "mlp", swiglu(&d)),
    ]);
    let tied = tied_or(c, true)?;
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied, vec![layer; d.layers as usize]))
}
