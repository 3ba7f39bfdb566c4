//! Mixtral: llama with experts; the best k router logits, softmax over them.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mixtral"], blueprint, checkpoint: mixtral_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: d.hidden / d.heads, eps: c.f32_or("rms_norm_eps", 1e-5f32)?, ..d };
    let rope = Rope::plain(d.head_dim, c.rope()?.theta_or(1e6)).traditional(c.flag_or("rope_traditional", false)?);
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).rope(rope);
    let experts = size_or(c, "num_local_experts", 8)?;
    let moe = Moe::swiglu(d.hidden, d.inner, experts, size_or(c, "num_experts_per_tok", 2)?, Router::top_softmax());
    let layer = pre_norms(
        rms(&d),
        ["input_layernorm", "self_attn", "post_attention_layernorm", "block_sparse_moe"],
        mixer,
        moe,
    );
    Ok(alike(&d, rms(&d), tied_or(c, false)?, layer))
}
