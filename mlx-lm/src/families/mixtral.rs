//! Mixtral: llama with experts; the best k router logits, softmax over them.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mixtral"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: d.hidden / d.heads, eps: c.f32_or("rms_norm_eps", 1e-5f32)?, ..d };
    let rope = Rope::plain(d.head_dim, c.rope()?.theta_or(1e6)).traditional(c.flag_or("rope_traditional", false)?);
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).rope(rope);
    let experts = size_or(c, "num_local_experts", 8)?;
    let moe = Moe::swiglu(d.hidden, d.inner, experts, size_or(c, "num_experts_per_tok", 2)?, Router::top_softmax());
    let layer = Layer::sequential([
        Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer),
        Branch::ffn("post_attention_layernorm", rms(&d), "block_sparse_moe", moe),
    ]);
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, vec![layer; d.layers as usize]))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    let (layers, experts) = (size(c, "num_hidden_layers")?, size_or(c, "num_local_experts", 8)?);
    let names = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];
    stack_experts_named(t, layers, experts, "block_sparse_moe.experts", "block_sparse_moe.switch_mlp", &names)
}
