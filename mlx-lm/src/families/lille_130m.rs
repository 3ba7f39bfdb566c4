//! Lille 130M: llama with the norms inside attention and MLP, interleaved rotary pairs.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["lille-130m"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = gpt_dims(c)?;
    let kv_heads = size_or(c, "n_kv_heads", d.heads)?;
    divides(c, "n_kv_heads", kv_heads, d.heads)?;
    let d = Dims { kv_heads, eps: c.f32_or("layer_norm_eps", 1e-5f32)?, ..d };
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::from_config(&c.rope()?, d.head_dim, 10_000.0).traditional(true))
        .fused("qkv_proj", FusedQkv::Blocks)
        .output("out_proj");
    let inner = 256 * ((8 * d.hidden / 3) as f64 / 256.0).round_ties_even() as i32;
    let names = ["attention.norm", "attention", "feed_forward.norm", "feed_forward"];
    let layer = pre_norms(rms(&d), names, mixer, Mlp::swiglu(d.hidden, inner));
    Ok(alike(&d, rms(&d), true, layer).paths("transformer.tok_embeddings", "transformer.layers", "transformer.norm"))
}
