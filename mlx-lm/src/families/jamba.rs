//! Jamba: mamba layers with attention between them, every few of them with experts.

use super::mamba::rank;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["jamba"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let attention = Attention::new(d.hidden, d.heads, d.kv_heads, d.hidden / d.heads);
    let mamba = Mamba {
        hidden: d.hidden,
        inner: size(c, "mamba_expand")? * d.hidden,
        state: size(c, "mamba_d_state")?,
        kernel: size(c, "mamba_d_conv")?,
        dt_rank: rank(c, "mamba_dt_rank", d.hidden)?,
        bias: c.flag_or("mamba_proj_bias", false)?,
        conv_bias: c.flag_or("mamba_conv_bias", true)?,
        norms: MambaNorms::Learned { eps: d.eps },
    };
    let experts = size_or(c, "num_experts", 1)?;
    let router = Router { name: "router".into(), ..Router::top_softmax() };
    let moe = Moe::swiglu(d.hidden, d.inner, experts, size_or(c, "num_experts_per_tok", 1)?, router);
    let attends = attention_layers(c, d.layers)?;
    let (period, offset) = (size(c, "expert_layer_period")?.max(1), size(c, "expert_layer_offset")?);
    let b = decoder(&d, rms(&d), tied_or(c, true)?, |i| {
        let mixer = match attends[i as usize] {
            true => Branch::mixer("input_layernorm", rms(&d), "self_attn", attention.clone()),
            false => Branch::mixer("input_layernorm", rms(&d), "mamba", mamba.clone()),
        };
        let ffn = match experts > 1 && (i + offset) % period == 0 {
            true => Branch::ffn("pre_ff_layernorm", rms(&d), "feed_forward", moe.clone()),
            false => Branch::ffn("pre_ff_layernorm", rms(&d), "feed_forward", swiglu(&d)),
        };
        Layer::sequential([mixer, ffn])
    });
    Ok(b.paths("model.embed_tokens", "model.layers", "model.final_layernorm"))
}

fn attention_layers(c: &Config, layers: i32) -> Result<Vec<bool>> {
    if let Some(types) = c.opt_strings("layers_block_type")? {
        return match types.len() == layers as usize {
            true => Ok(types.iter().map(|t| t == "attention").collect()),
            false => Err(c.error("layers_block_type", format!("{} entries for {layers} layers", types.len()))),
        };
    }
    let (period, offset) = (size(c, "attn_layer_period")?.max(1), size(c, "attn_layer_offset")?);
    Ok((0..layers).map(|i| i % period == offset).collect())
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    tied_checkpoint(c, t)?;
    t.conv_last("conv1d.weight")?;
    let (layers, experts) = (size(c, "num_hidden_layers")?, size_or(c, "num_experts", 1)?);
    stack_experts(t, layers, experts, "feed_forward.experts", "feed_forward.switch_mlp")
}
