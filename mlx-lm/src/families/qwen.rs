//! Qwen 1: one matrix with a bias for q, k and v, an MLP of half the stated width.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["qwen"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let norm = Norm::rms(c.f32_or("layer_norm_epsilon", 1e-6f32)?);
    let bias = !c.flag_or("no_bias", true)?;
    let rotated = d.hidden / d.heads;
    let mut mixer = Attention::new(d.hidden, d.heads, d.heads, size_or(c, "kv_channels", 128)?)
        .scale((rotated as f32).powf(-0.5))
        .rope(Rope::plain(rotated, 10_000.0))
        .fused("c_attn", FusedQkv::Blocks)
        .output("c_proj")
        .bias(bias);
    mixer.qkv_bias = true;
    let mlp = Mlp::swiglu(d.hidden, d.inner / 2).gated_as("w2", "w1", "c_proj").bias(bias);
    let layer = pre_norms(norm, ["ln_1", "attn", "ln_2", "mlp"], mixer, mlp);
    let mut b = alike(&d, norm, false, layer).paths("transformer.wte", "transformer.h", "transformer.ln_f");
    b.head.bias = bias;
    Ok(b)
}
