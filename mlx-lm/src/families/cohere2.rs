//! Cohere Command R7B: cohere with three sliding, rotating layers to one full one without rotation.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["cohere2"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: size_or(c, "head_dim", 128)?, ..d };
    let norm = Norm::layer(c.f32_or("layer_norm_eps", 1e-5f32)?, c.flag_or("layer_norm_bias", false)?);
    let rope = Rope::plain(d.head_dim, c.rope()?.theta_or(50_000.0)).traditional(true);
    let full = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).bias(c.flag_or("attention_bias", false)?);
    let (window, every) = (size_or(c, "sliding_window", 4096)?, size_or(c, "sliding_window_pattern", 4)?.max(1));
    let mut b = decoder(&d, norm, true, |i| {
        let mixer = match (i + 1) % every == 0 {
            true => full.clone(),
            false => full.clone().rope(rope.clone()).sliding(window),
        };
        parallel(norm, ["input_layernorm", "self_attn", "mlp"], mixer, swiglu(&d))
    });
    b.head.scale = c.f32_or("logit_scale", 0.0625f32)?;
    Ok(b)
}
