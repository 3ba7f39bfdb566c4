//! Hunyuan V1 dense: llama with per-head norms after the rotation and an NTK-stretched base.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["hunyuan_v1_dense"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    if c.flag_or("use_qk_norm", true)? {
        let kind = QkNormKind::PerHead;
        mixer = mixer.qk_norm_named(kind, rms(&d), "query_layernorm", "key_layernorm", true);
    }
    Ok(llama_shape(&d, mixer, swiglu(&d), tied_or(c, false)?))
}
