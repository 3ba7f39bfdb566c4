//! BitNet b1.58: llama with ternary matrices, squared-ReLU gates and norms before both output projections.

use super::Family;
use super::common::{attention, dims, llama_shape, rms, swiglu, tied_checkpoint, tied_or};
use crate::Result;
use crate::blueprint::{Activation, Blueprint};
use crate::config::Config;

pub const FAMILY: Family = Family { model_types: &["bitnet"], blueprint, checkpoint: tied_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = attention(c, &d)?.bias(c.flag_or("attention_bias", false)?);
    mixer.o_norm = Some(("attn_sub_norm".into(), rms(&d)));
    let mut mlp = swiglu(&d).activation(Activation::Relu2).bias(c.flag_or("mlp_bias", false)?);
    mlp.inner_norm = Some(("ffn_sub_norm".into(), rms(&d)));
    Ok(llama_shape(&d, mixer, mlp, tied_or(c, true)?))
}
