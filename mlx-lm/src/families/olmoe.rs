//! OLMoE: norms over all of q and k, softmax router.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["olmoe"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?).qk_norm(QkNormKind::FullWidth, rms(&d));
    let router = Router::softmax(c.flag_or("norm_topk_prob", false)?);
    let (experts, top_k) = (size(c, "num_experts")?, size(c, "num_experts_per_tok")?);
    let mut moe = Moe::swiglu(d.hidden, d.inner, experts, top_k, router);
    moe.bias = c.flag_or("mlp_bias", false)?;
    let layer = llama_layer(&d, mixer, moe);
    Ok(alike(&d, rms(&d), tied_or(c, true)?, layer))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    tied_checkpoint(c, t)?;
    stack_experts(t, size(c, "num_hidden_layers")?, size(c, "num_experts")?, "mlp.experts", "mlp.switch_mlp")
}
