//! Klear: qwen3_moe with sigmoid scores, a bias for the choice, and a learned mix of routed and shared experts.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["Klear"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_shared(c)?;
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::plain(d.head_dim, c.rope()?.theta_or(10_000.0)))
        .bias(c.flag("attention_bias")?)
        .qk_norm(QkNormKind::PerHead, rms(&d));
    let mut router = Router::noaux(None, c.flag("norm_topk_prob")?, 1.0);
    router.correction = Some("expert_bias".into());
    let (inner, experts) = (size(c, "moe_intermediate_size")?, size(c, "num_experts")?);
    let mut moe = Moe::swiglu(d.hidden, inner, experts, size(c, "num_experts_per_tok")?, router).shared(
        "shared_experts",
        Mlp::swiglu(d.hidden, inner * size(c, "n_shared_experts")?),
        None,
    );
    moe.experts_name = "experts".into();
    if let Some(shared) = &mut moe.shared {
        shared.mix = Some("coefficient".into());
    }
    let dense_only = c.opt_usizes("mlp_only_layers")?.unwrap_or_default();
    let every = size_or(c, "decoder_sparse_step", 1)?.max(1);
    Ok(decoder(&d, rms(&d), false, |i| {
        mixed_layer(
            &d,
            mixer.clone(),
            (experts > 0 && !dense_only.contains(&(i as usize)) && (i + 1) % every == 0).then_some(&moe),
        )
    }))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    stack_experts(t, size(c, "num_hidden_layers")?, size(c, "num_experts")?, "mlp.experts", "mlp.experts")
}
