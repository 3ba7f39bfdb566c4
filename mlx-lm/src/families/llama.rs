//! Llama (and mistral, xverse, iquestcoder, smollm3): a pre-norm SwiGLU decoder.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["llama", "smollm3"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let full = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    let types = c.opt_strings("layer_types")?;
    let window = c.opt_usize("sliding_window")?.map(|w| w as i32);
    // a list of layer types decides how many layers there are
    let layers = (0..types.as_ref().map_or(d.layers as usize, Vec::len))
        .map(|i| {
            let mut mixer = full.clone();
            if let (Some(t), Some(w)) = (types.as_ref().and_then(|t| t.get(i)), window)
                && t == "sliding_attention"
            {
                mixer = mixer.sliding(w);
            }
            if !rotates(c, i)? {
                mixer.rope = None;
            }
            Ok(pre_norms(
                rms(&d),
                ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"],
                mixer,
                mlp.clone(),
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let tied = tied_or(c, true)?;
    Ok(Blueprint::new(d.vocab, d.hidden, rms(&d), tied, layers))
}

/// smollm3: every fourth layer has no rotary embedding.
fn rotates(c: &Config, layer: usize) -> Result<bool> {
    if c.model_type() != "smollm3" {
        return Ok(true);
    }
    if let Some(list) = c.opt_usizes("no_rope_layers")? {
        return Ok(list.get(layer).is_none_or(|&on| on != 0));
    }
    let every = c.usize_or("no_rope_layer_interval", 4usize)?;
    Ok(every == 0 || !(layer + 1).is_multiple_of(every))
}
