//! GLM-4 9B (glm): llama with interleaved rotary pairs and one matrix for gate and up.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["glm"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?.rope(Rope::partial(&c.rope()?, d.head_dim, 1.0, 10_000.0).traditional(true));
    mixer.qkv_bias = c.flag_or("attention_bias", false)?;
    Ok(llama_shape(&d, mixer, swiglu(&d).fused_gate_up("gate_up_proj", "down_proj"), tied_or(c, true)?))
}
