//! DeepSeek MoE (v1): llama with a softmax router that is not renormalised, and shared experts.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["deepseek"], blueprint, checkpoint: experts_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_shared(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    let experts = size_or(c, "n_routed_experts", 0)?;
    let moe = match experts {
        0 => None,
        n => {
            let inner = size_or(c, "moe_intermediate_size", 1407)?;
            let router = Router { bare: true, ..Router::softmax(false) };
            let moe = Moe::swiglu(d.hidden, inner, n, size(c, "num_experts_per_tok")?, router);
            Some(moe.shared_experts(inner * size_or(c, "n_shared_experts", 0)?))
        }
    };
    let (dense, every) = (size_or(c, "first_k_dense_replace", 0)?, size_or(c, "moe_layer_freq", 1)?.max(1));
    let sparse = |i| moe.as_ref().filter(|_| i >= dense && i % every == 0);
    Ok(decoder(&d, rms(&d), false, |i| mixed_layer(&d, mixer.clone(), sparse(i))))
}
