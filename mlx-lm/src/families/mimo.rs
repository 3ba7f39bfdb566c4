//! MiMo: the qwen2 body; multi-token-prediction layers are dropped.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mimo"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?;
    mixer.qkv_bias = true;
    Ok(llama_shape(&d, mixer, swiglu(&d), tied_or(c, false)?))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.starts_with("model.mtp_layers."));
    plain_checkpoint(c, t)
}
