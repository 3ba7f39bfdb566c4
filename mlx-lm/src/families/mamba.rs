//! Mamba and Falcon Mamba: nothing but selective state spaces.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mamba"], blueprint, checkpoint };

/// The first of the keys that the config has: transformers' name or that of the first implementation.
fn either(c: &Config, name: &str, old: &str) -> Result<i32> {
    size(c, if c.has(name) || !c.has(old) { name } else { old })
}

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = either(c, "hidden_size", "d_model")?;
    let eps = c.f32_or("mixer_rms_eps", 1e-6f32)?;
    let normed = c.declared_model_type() == "falcon_mamba" || c.flag_or("use_bcdt_rms", false)?;
    let mixer = Mamba {
        hidden,
        inner: either(c, "intermediate_size", "d_inner")?,
        state: either(c, "state_size", "d_state")?,
        kernel: either(c, "conv_kernel", "d_conv")?,
        dt_rank: rank(c, "time_step_rank", hidden)?,
        bias: c.flag(if c.has("use_bias") { "use_bias" } else { "bias" })?,
        conv_bias: c.flag(if c.has("use_conv_bias") { "use_conv_bias" } else { "conv_bias" })?,
        norms: if normed { MambaNorms::Plain { eps } } else { MambaNorms::None },
    };
    let layer = Layer::sequential([Branch::mixer("norm", Norm::rms(1e-5), "mixer", mixer)]);
    let layers = vec![layer; either(c, "num_hidden_layers", "n_layer")? as usize];
    let b = Blueprint::new(size(c, "vocab_size")?, hidden, Norm::rms(1e-5), tied_or(c, true)?, layers);
    Ok(b.paths("backbone.embeddings", "backbone.layers", "backbone.norm_f"))
}

/// Width of the bottleneck of the time steps; `"auto"`, or no key, is a sixteenth of the model's.
pub fn rank(c: &Config, key: &str, hidden: i32) -> Result<i32> {
    let auto = matches!(c.opt_str(key), Ok(Some("auto")));
    if auto { Ok((hidden + 15) / 16) } else { size_or(c, key, (hidden + 15) / 16) }
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    tied_checkpoint(c, t)?;
    t.conv_last("conv1d.weight")
}
