//! GLM-4-0414: norms before and after both branches, partly rotated heads, one matrix for gate and up.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["glm4"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let rope = Rope::partial(&c.rope()?, d.head_dim, 1.0, 10_000.0);
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(rope.traditional(c.flag_or("rope_traditional", true)?));
    mixer.qkv_bias = c.flag_or("attention_bias", false)?;
    let norms = ["input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"];
    let layer = sandwich_layer(norms, rms(&d), mixer, swiglu(&d).fused_gate_up("gate_up_proj", "down_proj"));
    Ok(alike(&d, rms(&d), false, layer))
}
