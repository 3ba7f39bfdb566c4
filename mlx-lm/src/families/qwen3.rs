//! Qwen3: a pre-norm SwiGLU decoder with per-head norms on q and k.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["qwen3"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?).qk_norm(QkNormKind::PerHead, rms(&d));
    let layer = Layer::sequential([
        Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer),
        Branch::ffn("post_attention_layernorm", rms(&d), "mlp", swiglu(&d)),
    ]);
    let tied = tied_or(c, false)?;
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied, vec![layer; d.layers as usize]))
}
