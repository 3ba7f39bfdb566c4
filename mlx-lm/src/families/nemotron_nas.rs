//! Nemotron NAS (Llama-Nemotron): llama whose layers differ: attention and MLP may be absent, a matrix, or of any width.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["nemotron-nas"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = read_dims(c, "num_hidden_layers")?;
    let Some(blocks) = c.get("block_configs").and_then(|b| b.as_array()) else {
        return Err(c.error("block_configs", "expected a list of objects"));
    };
    if blocks.len() != d.layers as usize {
        return Err(c.error("block_configs", format!("{} blocks for {} layers", blocks.len(), d.layers)));
    }
    let layers = blocks
        .iter()
        .enumerate()
        .map(|(i, b)| {
            let map = b.as_object().cloned().unwrap_or_default();
            layer(c, &d, &Section::new(format!("block_configs[{i}]."), map))
        })
        .collect::<Result<_>>()?;
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied_or(c, false)?, layers))
}

fn layer(c: &Config, d: &Dims, block: &Section) -> Result<Layer> {
    let (a, f) = (block.opt_sub("attention")?.unwrap_or_default(), block.opt_sub("ffn")?.unwrap_or_default());
    let (attention_bias, mlp_bias) = (c.flag_or("attention_bias", false)?, c.flag_or("mlp_bias", false)?);
    let mut branches = Vec::new();
    if a.flag("replace_with_linear")? && !a.flag("no_op")? {
        let part = LinearFfn { hidden: d.hidden, bias: attention_bias };
        branches.push(Branch::ffn("input_layernorm", rms(d), "self_attn", part));
    } else if !a.flag("no_op")? {
        let group = a.usize("n_heads_in_group")? as i32;
        divides(&a, "n_heads_in_group", group, d.heads)?;
        let d = Dims { kv_heads: d.heads / group, head_dim: d.hidden / d.heads, ..*d };
        let mut mixer = attention(c, &d)?.bias(attention_bias);
        if c.rope()?.theta.is_none() {
            mixer.rope = mixer.rope.map(|mut r| {
                r.base = 500_000.0;
                r
            });
        }
        branches.push(Branch::mixer("input_layernorm", rms(&d), "self_attn", mixer));
    }
    if f.flag("replace_with_linear")? && !f.flag("no_op")? {
        let part = LinearFfn { hidden: d.hidden, bias: mlp_bias };
        branches.push(Branch::ffn("post_attention_layernorm", rms(d), "mlp", part));
    } else if !f.flag("no_op")? {
        let exact = (2.0 * f.f64("ffn_mult")? * d.hidden as f64 / 3.0) as i32;
        let name = c.str_or("hidden_act", "silu")?;
        let Some(act) = Activation::from_name(name) else {
            return Err(c.error("hidden_act", format!("unknown activation {name:?}")));
        };
        let mlp = Mlp::swiglu(d.hidden, (exact + 255) / 256 * 256).activation(act).bias(mlp_bias);
        branches.push(Branch::ffn("post_attention_layernorm", rms(d), "mlp", mlp));
    }
    Ok(Layer::sequential(branches))
}
