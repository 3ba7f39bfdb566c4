//! Apertus: llama with per-head norms on q and k and an ungated xIELU MLP.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["apertus"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.qk_norm(QkNormKind::PerHead, rms(&d));
    let mlp = XieluMlp { hidden: d.hidden, inner: d.inner, bias: c.flag_or("mlp_bias", false)? };
    let layer = pre_norms(rms(&d), ["attention_layernorm", "self_attn", "feedforward_layernorm", "mlp"], mixer, mlp);
    Ok(alike(&d, rms(&d), tied_or(c, false)?, layer))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    for l in 0..size(c, "num_hidden_layers")? {
        for leaf in ["alpha_p", "alpha_n"] {
            t.to_scalar(&format!("model.layers.{l}.mlp.act_fn.{leaf}"))?;
        }
    }
    plain_checkpoint(c, t)
}
