//! Mamba-2: nothing but state space layers.

use super::Family;
use super::common::{check_groups, size, size_or, time_step_limit, tied_checkpoint, tied_or};
use crate::Result;
use crate::blueprint::{Blueprint, Branch, GatedNorm, Layer, Mamba2, Norm};
use crate::config::Config;
use crate::weights::Tensors;

pub const FAMILY: Family = Family { model_types: &["mamba2"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, eps) = (size(c, "hidden_size")?, c.f32("layer_norm_epsilon")?);
    let state = if c.has("ssm_state_size") { size(c, "ssm_state_size")? } else { size(c, "state_size")? };
    let mixer = Mamba2 {
        hidden,
        heads: size(c, "num_heads")?,
        head_dim: size(c, "head_dim")?,
        state,
        groups: size_or(c, "n_groups", 1)?,
        kernel: size(c, "conv_kernel")?,
        bias: c.flag("use_bias")?,
        conv_bias: c.flag("use_conv_bias")?,
        dt_limit: time_step_limit(c, (0.0, f32::INFINITY))?,
        eps,
        norm: GatedNorm::Whole,
        gate_first: true,
    };
    let mixer = check_groups(c, "n_groups", mixer)?;
    let layer = Layer::sequential([Branch::mixer("norm", Norm::rms(1e-5), "mixer", mixer)]);
    let layers = vec![layer; size(c, "num_hidden_layers")? as usize];
    let b = Blueprint::new(size(c, "vocab_size")?, hidden, Norm::rms(eps), tied_or(c, true)?, layers);
    Ok(b.paths("backbone.embeddings", "backbone.layers", "backbone.norm_f"))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    tied_checkpoint(c, t)?;
    t.conv_last("conv1d.weight")
}
