//! IQuest LoopCoder: llama whose layers run twice; the second time a gate mixes attention over the first pass with a
//! short window of its own.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["iquestloopcoder"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let loops = size_or(c, "loop_num", 2)?;
    if loops != 2 {
        return Err(c.error("loop_num", format!("{loops} is not supported, only 2")));
    }
    let window = size_or(c, "loop_window_size", 64)?;
    let mut first = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    if c.rope()?.theta.is_none() {
        first.rope = first.rope.map(|mut r| {
            r.base = 500_000.0;
            r
        });
    }
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    let mut b = decoder(&d, rms(&d), tied_or(c, false)?, |i| {
        let mixer = Looped { attention: first.clone(), window, layer: i, gate: "gate_projection".into() };
        pre_norms(rms(&d), ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"], mixer, mlp.clone())
    });
    b.again = vec![Pass { norm_first: false, cache: Some(CacheKind::Rotating { size: window, keep: 0 }) }];
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    for l in 0..size(c, "num_hidden_layers")? {
        let (from, to) =
            (format!("model.gate_projections.{l}."), format!("model.layers.{l}.self_attn.gate_projection."));
        t.replace_prefix(&from, &to)?;
    }
    plain_checkpoint(c, t)
}
