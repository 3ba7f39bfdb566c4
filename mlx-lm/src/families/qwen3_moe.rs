//! Qwen3-MoE: qwen3 whose MLPs are, mostly, 128 small experts with a softmax router.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["qwen3_moe"], blueprint, checkpoint: experts_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag("attention_bias")?).qk_norm(QkNormKind::PerHead, rms(&d));
    let experts = size(c, "num_experts")?;
    let router = Router::softmax(c.flag_or("norm_topk_prob", false)?);
    let moe =
        Moe::swiglu(d.hidden, size(c, "moe_intermediate_size")?, experts, size(c, "num_experts_per_tok")?, router);
    let dense_only = c.opt_usizes("mlp_only_layers")?.unwrap_or_default();
    let every = size_or(c, "decoder_sparse_step", 1)?.max(1);
    Ok(decoder(&d, rms(&d), tied_or(c, false)?, |i| {
        let sparse = experts > 0 && !dense_only.contains(&(i as usize)) && (i + 1) % every == 0;
        let name = "post_attention_layernorm";
        let ffn = match sparse {
            true => Branch::ffn(name, rms(&d), "mlp", moe.clone()),
            false => Branch::ffn(name, rms(&d), "mlp", swiglu(&d)),
        };
        Layer::sequential([Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer.clone()), ffn])
    }))
}
