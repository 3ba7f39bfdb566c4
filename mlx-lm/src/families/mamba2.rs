//! Mamba-2: nothing but state space layers.

use super::Family;
use super::common::{size, size_or};
use crate::Result;
use crate::blueprint::{Blueprint, Branch, GatedNorm, Layer, Mamba2, Norm};
use crate::config::Config;
use crate::weights::Tensors;

pub const FAMILY: Family = Family { model_types: &["mamba2"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let (hidden, eps) = (size(c, "hidden_size")?, c.f32("layer_norm_epsilon")?);
    let state = if c.has("ssm_state_size") { size(c, "ssm_state_size")? } else { size(c, "state_size")? };
    let limit = c.f32s("time_step_limit")?;
    let &[low, high] = limit.as_slice() else {
        return Err(c.error("time_step_limit", "expected two numbers"));
    };
    let mixer = Mamba2 {
        hidden,
        heads: size(c, "num_heads")?,
        head_dim: size(c, "head_dim")?,
        state,
        groups: size_or(c, "n_groups", 1)?,
        kernel: size(c, "conv_kernel")?,
        bias: c.flag("use_bias")?,
        conv_bias: c.flag("use_conv_bias")?,
        dt_limit: (low, high),
        eps,
        norm: GatedNorm::Whole,
        gate_first: true,
    };
    if mixer.groups == 0 || mixer.heads % mixer.groups != 0 {
        return Err(c.error("n_groups", format!("{} does not divide {} heads", mixer.groups, mixer.heads)));
    }
    let layer = Layer::sequential([Branch::mixer("norm", Norm::rms(1e-5), "mixer", mixer)]);
    let layers = vec![layer; size(c, "num_hidden_layers")? as usize];
    let tied = c.tie_word_embeddings()?.unwrap_or(true);
    let mut b = Blueprint::new(size(c, "vocab_size")?, hidden, Norm::rms(eps), tied, layers);
    b.embed.path = "backbone.embeddings".into();
    b.layers_path = "backbone.layers".into();
    b.norm = Some(("backbone.norm_f".into(), Norm::rms(eps)));
    Ok(b)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    if c.tie_word_embeddings()?.unwrap_or(true) {
        t.drop_where(|n| n.starts_with("lm_head."));
    }
    t.conv_last("conv1d.weight")
}
