//! TeleChat3: llama whose head is untied by default.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["telechat3"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    let mlp = swiglu(&d).bias(c.flag_or("mlp_bias", false)?);
    Ok(llama_shape(&d, mixer, mlp, tied_or(c, false)?))
}
