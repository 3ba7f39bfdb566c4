//! MiniMax M2: norms over all of q and k, partly rotated heads, sigmoid router with correction bias, fp8 blocks.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["minimax"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::plain(size(c, "rotary_dim")?, c.rope()?.theta_or(10_000.0)));
    if c.flag_or("use_qk_norm", true)? {
        mixer = mixer.qk_norm(QkNormKind::FullWidth, rms(&d));
    }
    let mut router = Router::noaux(None, true, 1.0);
    router.correction = Some("e_score_correction_bias".into());
    let experts = size(c, "num_local_experts")?;
    let moe = Moe::swiglu(d.hidden, d.inner, experts, size(c, "num_experts_per_tok")?, router);
    let layer = Layer::sequential([
        Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer),
        Branch::ffn("post_attention_layernorm", rms(&d), "block_sparse_moe", moe),
    ]);
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, vec![layer; d.layers as usize]))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    let (layers, experts) = (size(c, "num_hidden_layers")?, size(c, "num_local_experts")?);
    let names = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];
    stack_experts_named(t, layers, experts, "block_sparse_moe.experts", "block_sparse_moe.switch_mlp", &names)
}
