//! Granite MoE: granite whose MLPs are experts; the best k router logits, softmax over them.

use super::granite::scale_branches;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["granitemoe"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?).scale(c.f32("attention_multiplier")?);
    let router = Router { name: "router.layer".into(), f32: true, ..Router::top_softmax() };
    let (experts, top_k) = (size(c, "num_local_experts")?, size(c, "num_experts_per_tok")?);
    let moe = Moe::swiglu(d.hidden, d.inner, experts, top_k, router);
    let layer = pre_norms(
        rms(&d),
        ["input_layernorm", "self_attn", "post_attention_layernorm", "block_sparse_moe"],
        mixer,
        moe,
    );
    let mut b = alike(&d, rms(&d), tied_or(c, true)?, layer);
    scale_branches(&mut b, c.f32("residual_multiplier")?);
    b.embed.scale = Some(EmbedScale { value: c.f32("embedding_multiplier")?, round_bf16: false });
    b.head.scale = 1.0 / c.f32("logits_scaling")?;
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    tied_checkpoint(c, t)?;
    split_experts(c, t)
}

/// The published joined matrices of all experts become `switch_mlp`.
pub fn split_experts(c: &Config, t: &mut Tensors) -> Result<()> {
    let inner = size(c, "intermediate_size")?;
    for name in t.select(|n| n.ends_with(".block_sparse_moe.input_linear.weight")) {
        let to = |part: &str| name.replace("input_linear", &format!("switch_mlp.{part}"));
        t.split(&name, 1, &[(inner, &to("gate_proj")), (inner, &to("up_proj"))])?;
    }
    t.rename_all(|n| Some(n.replace(".block_sparse_moe.output_linear.", ".block_sparse_moe.switch_mlp.down_proj.")))
}
