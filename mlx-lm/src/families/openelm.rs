//! OpenELM: heads and MLP width differ by layer; per-head norms on q and k.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["openelm"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, head_dim) = (size(c, "model_dim")?, size(c, "head_dim")?);
    let norm = Norm::rms(c.f32_or("rms_norm_eps", 1e-6f32)?);
    let (heads, kv_heads) = (c.usizes("num_query_heads")?, c.usizes("num_kv_heads")?);
    let multipliers = c.f64s("ffn_multipliers")?;
    let rope = Rope::plain(head_dim, c.f64_or("rope_freq_constant", 10_000f64)?);
    let layers = (0..size(c, "num_transformer_layers")? as usize)
        .map(|i| {
            let (Some(&h), Some(&kv), Some(&m)) = (heads.get(i), kv_heads.get(i), multipliers.get(i)) else {
                return Err(c.error("num_query_heads", format!("layer {i} has no heads or ffn multiplier")));
            };
            divides(c, "num_kv_heads", kv as i32, h as i32)?;
            let mut mixer = Attention::new(hidden, h as i32, kv as i32, head_dim)
                .rope(rope.clone())
                .fused("qkv_proj", FusedQkv::Blocks)
                .output("out_proj");
            if c.flag_or("normalize_qk_projections", true)? {
                mixer = mixer.qk_norm(QkNormKind::PerHead, norm);
            }
            let inner = divisible(m * hidden as f64, c.usize("ffn_dim_divisor")?.max(1) as i32);
            let mlp = Mlp::swiglu(hidden, inner).fused_gate_up("proj_1", "proj_2");
            Ok(pre_norms(norm, ["attn_norm", "attn", "ffn_norm", "ffn"], mixer, mlp))
        })
        .collect::<Result<_>>()?;
    let tied = c.flag_or("share_input_output_layers", true)?;
    let b = Blueprint::new(size(c, "vocab_size")?, hidden, norm, tied, layers);
    Ok(b.paths("transformer.token_embeddings", "transformer.layers", "transformer.norm"))
}

/// The multiple of `divisor` nearest to `v`, at least one, not more than a tenth below.
fn divisible(v: f64, divisor: i32) -> i32 {
    let near = ((v + divisor as f64 / 2.0) as i32 / divisor * divisor).max(divisor);
    if (near as f64) < 0.9 * v { near + divisor } else { near }
}
