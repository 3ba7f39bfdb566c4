//! Phi-3.5-MoE: layer norms, biases on attention, experts chosen one after the other (sparse mixer).

use super::phi3::TRAINED;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["phimoe"], blueprint, checkpoint: mixtral_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_shared(c)?;
    let norm = Norm::layer(d.eps, true);
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::from_config(&c.rope_trained(c.usize_or(TRAINED, 4096)?)?, d.head_dim, 10_000.0))
        .bias(true);
    let mut router = Router::top_softmax();
    router.sparse_mixer = Some(c.f32_or("router_jitter_noise", 0.01f32)?);
    let (experts, top_k) = (size_or(c, "num_local_experts", 16)?, size_or(c, "num_experts_per_tok", 2)?);
    let moe = Moe::swiglu(d.hidden, d.inner, experts, top_k, router);
    let layer =
        pre_norms(norm, ["input_layernorm", "self_attn", "post_attention_layernorm", "block_sparse_moe"], mixer, moe);
    let mut b = alike(&d, norm, false, layer);
    b.head.bias = true;
    Ok(b)
}
