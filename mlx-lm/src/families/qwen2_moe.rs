//! Qwen2-MoE: qwen2 with a softmax router and a gated shared expert.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["qwen2_moe"], blueprint, checkpoint: experts_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_shared(c)?;
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::from_config(&c.rope()?, d.head_dim, 1e6).traditional(c.flag_or("rope_traditional", false)?));
    mixer.qkv_bias = true;
    let (inner, experts) = (size(c, "moe_intermediate_size")?, size(c, "num_experts")?);
    let shared = Mlp::swiglu(d.hidden, size(c, "shared_expert_intermediate_size")?);
    let moe = Moe::swiglu(d.hidden, inner, experts, size(c, "num_experts_per_tok")?, Router::softmax(false)).shared(
        "shared_expert",
        shared,
        Some("shared_expert_gate"),
    );
    let layer = llama_layer(&d, mixer, moe);
    Ok(alike(&d, rms(&d), false, layer))
}
