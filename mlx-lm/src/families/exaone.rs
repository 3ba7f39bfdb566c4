//! EXAONE 3: llama under names of its own.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["exaone"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_with_layers(c, "num_layers")?;
    let d = Dims { eps: c.f32_or("layer_norm_epsilon", 1e-5f32)?, ..d };
    let mixer = attention(c, &d)?.output("out_proj").bias(c.flag_or("attention_bias", false)?);
    let mlp = swiglu(&d).gated_as("c_fc_0", "c_fc_1", "c_proj").bias(c.flag_or("mlp_bias", false)?);
    let layer = pre_norms(rms(&d), ["ln_1", "attn.attention", "ln_2", "mlp"], mixer, mlp);
    Ok(alike(&d, rms(&d), tied_or(c, true)?, layer).paths("transformer.wte", "transformer.h", "transformer.ln_f"))
}
