//! dots.llm1: norms on q and k, sigmoid router with correction bias, shared experts.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["dots1"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.qk_norm(QkNormKind::PerHead, rms(&d));
    let bias = c.flag_or("mlp_bias", false)?;
    let mut moe = noaux_moe(c, &d)?;
    moe.experts_name = "experts".into();
    if bias && moe.shared.is_some() {
        let inner = size(c, "moe_intermediate_size")? * size(c, "n_shared_experts")?;
        moe = moe.shared("shared_experts", Mlp::swiglu(d.hidden, inner).bias(true), None);
    }
    let dense = size(c, "first_k_dense_replace")?;
    Ok(decoder(&d, rms(&d), tied_or(c, false)?, |i| match i < dense {
        true => llama_layer(&d, mixer.clone(), swiglu(&d).bias(bias)),
        false => llama_layer(&d, mixer.clone(), moe.clone()),
    }))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    stack_experts(t, size(c, "num_hidden_layers")?, size(c, "n_routed_experts")?, "mlp.experts", "mlp.experts")
}
