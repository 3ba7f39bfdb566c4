//! GPT BigCode (StarCoder 1): GPT-2 with one key and value head for all queries.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gpt_bigcode"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = gpt_dims(c)?;
    let norm = Norm::layer(d.eps, true);
    let kv_heads = if c.flag_or("multi_query", true)? { 1 } else { d.heads };
    let mixer = Attention::new(d.hidden, d.heads, kv_heads, d.head_dim)
        .fused("c_attn", FusedQkv::Blocks)
        .output("c_proj")
        .bias(c.flag_or("attention_bias", true)?);
    let mlp = Mlp::plain(d.hidden, d.inner, Activation::Gelu, "c_fc", "c_proj").bias(c.flag_or("mlp_bias", true)?);
    let layer = pre_norms(norm, ["ln_1", "attn", "ln_2", "mlp"], mixer, mlp);
    let mut b = alike(&d, norm, tied_or(c, true)?, layer).paths("transformer.wte", "transformer.h", "transformer.ln_f");
    b.embed.positions = Some(("transformer.wpe".into(), size_or(c, "n_positions", 1024)?));
    Ok(b)
}
