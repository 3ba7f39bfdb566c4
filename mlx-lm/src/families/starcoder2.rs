//! StarCoder 2: layer norm, biases everywhere, a plain GELU MLP.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["starcoder2"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::layer(c.f32_or("norm_epsilon", 1e-5f32)?, true);
    let mixer = attention(c, &d)?.bias(true).rope(Rope::from_config(&c.rope()?, d.head_dim, 100_000.0));
    let mlp = Mlp::plain(d.hidden, d.inner, Activation::Gelu, "c_fc", "c_proj").bias(true);
    let layer = pre_norms(norm, ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, mlp);
    Ok(alike(&d, norm, tied_or(c, true)?, layer))
}
