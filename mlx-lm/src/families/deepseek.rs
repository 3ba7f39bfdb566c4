//! DeepSeek MoE (v1): llama with a softmax router that is not renormalised, and shared experts.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["deepseek"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: d.hidden / d.heads, ..d };
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    let experts = size_or(c, "n_routed_experts", 0)?;
    let moe = match experts {
        0 => None,
        n => {
            let inner = size_or(c, "moe_intermediate_size", 1407)?;
            let router = Router { bare: true, ..Router::softmax(false) };
            let moe = Moe::swiglu(d.hidden, inner, n, size(c, "num_experts_per_tok")?, router);
            Some(match c.opt_usize("n_shared_experts")? {
                Some(s) if s > 0 => moe.shared("shared_experts", Mlp::swiglu(d.hidden, inner * s as i32), None),
                _ => moe,
            })
        }
    };
    let (dense, every) = (size_or(c, "first_k_dense_replace", 0)?, size_or(c, "moe_layer_freq", 1)?.max(1));
    let layers = (0..d.layers)
        .map(|i| match &moe {
            Some(moe) if i >= dense && i % every == 0 => llama_layer(&d, mixer.clone(), moe.clone()),
            _ => llama_layer(&d, mixer.clone(), swiglu(&d)),
        })
        .collect();
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), false, layers))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    let experts = size_or(c, "n_routed_experts", 0)?;
    stack_experts(t, size(c, "num_hidden_layers")?, experts, "mlp.experts", "mlp.switch_mlp")
}
