//! OLMo 2: norms on the outputs only, and over all of q and k.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["olmo2"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?).qk_norm(QkNormKind::FullWidth, rms(&d));
    let norms = ["", "post_attention_layernorm", "", "post_feedforward_layernorm"];
    let layer = sandwich_layer(norms, rms(&d), mixer, swiglu(&d).bias(c.flag_or("mlp_bias", false)?));
    Ok(alike(&d, rms(&d), tied_or(c, true)?, layer))
}
