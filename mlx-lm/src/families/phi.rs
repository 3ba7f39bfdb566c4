//! Phi-1, 1.5 and 2: layer norm, attention and MLP in parallel, biases everywhere, part of each head rotates.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["phi"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::layer(c.f32_or("layer_norm_eps", 1e-5f32)?, true);
    let head_dim = d.hidden / d.heads;
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, head_dim)
        .rope(Rope::partial(&c.rope()?, head_dim, 0.4, 10_000.0))
        .output("dense")
        .bias(true);
    mixer.f32_scores = true;
    let mlp = Mlp::plain(d.hidden, d.inner, Activation::GeluTanh, "fc1", "fc2").bias(true);
    let mut b = alike(&d, norm, false, parallel(norm, ["input_layernorm", "self_attn", "mlp"], mixer, mlp));
    b.norm = Some(("model.final_layernorm".into(), norm));
    b.head.bias = true;
    Ok(b)
}
