//! ERNIE 4.5, dense: interleaved rotary pairs, one switch for all biases.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["ernie4_5"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let bias = c.flag_or("use_bias", false)?;
    let mut mixer = attention(c, &d)?.bias(bias);
    mixer.rope = mixer.rope.map(|r| r.traditional(true));
    Ok(llama_shape(&d, mixer, swiglu(&d).bias(bias), tied_or(c, false)?))
}
