//! BitNet b1.58: llama with ternary matrices, squared-ReLU gates and norms before both output projections.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["bitnet"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    mixer.o_norm = Some(("attn_sub_norm".into(), rms(&d)));
    let mut mlp = swiglu(&d).activation(Activation::Relu2).bias(c.flag_or("mlp_bias", false)?);
    mlp.inner_norm = Some(("ffn_sub_norm".into(), rms(&d)));
    Ok(llama_shape(&d, mixer, mlp, tied_or(c, true)?))
}
