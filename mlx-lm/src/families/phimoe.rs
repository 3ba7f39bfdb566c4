//! Phi-3.5-MoE: layer norms, biases on attention, experts chosen one after the other (sparse mixer).

use super::phi3::TRAINED;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["phimoe"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: d.hidden / d.heads, ..d };
    let norm = Norm::layer(d.eps, true);
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::from_config(&c.rope_trained(c.usize_or(TRAINED, 4096)?)?, d.head_dim, 10_000.0))
        .bias(true);
    let mut router = Router::top_softmax();
    router.sparse_mixer = Some(c.f32_or("router_jitter_noise", 0.01f32)?);
    let (experts, top_k) = (size_or(c, "num_local_experts", 16)?, size_or(c, "num_experts_per_tok", 2)?);
    let moe = Moe::swiglu(d.hidden, d.inner, experts, top_k, router);
    let layer = Layer::sequential([
        Branch::mixer("input_layernorm", norm, "self_attn", mixer),
        Branch::ffn("post_attention_layernorm", norm, "block_sparse_moe", moe),
    ]);
    let mut b = Blueprint::new(d.vocab, d.hidden, norm, false, vec![layer; d.layers as usize]);
    b.head.bias = true;
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    let (layers, experts) = (size(c, "num_hidden_layers")?, size_or(c, "num_local_experts", 16)?);
    let names = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];
    stack_experts_named(t, layers, experts, "block_sparse_moe.experts", "block_sparse_moe.switch_mlp", &names)
}
