//! Mamba-2: nothing but state space layers, as transformers and mlx-lm write them, and as the linear-attention library
//! does (whose norm beside the gate is over groups of channels).

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mamba2"], blueprint, checkpoint };

/// Written by the linear-attention library, which alone has these keys.
fn is_fla(c: &Config) -> bool {
    c.has("norm_before_gate") || c.has("rmsnorm")
}

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size(c, "hidden_size")?;
    let mixer = if is_fla(c) { fla(c, hidden)? } else { published(c, hidden)? };
    let eps = mixer.eps;
    let mixer = check_groups(c, "n_groups", mixer)?;
    let norm = Norm::rms(if is_fla(c) { eps } else { 1e-5 });
    let layers =
        vec![Layer::sequential([Branch::mixer("norm", norm, "mixer", mixer)]); size(c, "num_hidden_layers")? as usize];
    let b = Blueprint::new(size(c, "vocab_size")?, hidden, Norm::rms(eps), tied_or(c, !is_fla(c))?, layers);
    Ok(b.paths("backbone.embeddings", "backbone.layers", "backbone.norm_f"))
}

fn published(c: &Config, hidden: i32) -> Result<Mamba2> {
    let state = if c.has("ssm_state_size") { size(c, "ssm_state_size")? } else { size(c, "state_size")? };
    let [heads, width, kernel] = sizes(c, ["num_heads", "head_dim", "conv_kernel"])?;
    let sizes = [heads, width, state, size_or(c, "n_groups", 1)?, kernel];
    Ok(Mamba2 {
        bias: [c.flag("use_bias")?; 2],
        conv_bias: c.flag("use_conv_bias")?,
        dt_limit: time_step_limit(c, (0.0, f32::INFINITY))?,
        ..Mamba2::new(hidden, sizes, c.f32("layer_norm_epsilon")?)
    })
}

fn fla(c: &Config, hidden: i32) -> Result<Mamba2> {
    let head_dim = size_or(c, "head_dim", 64)?.max(1);
    let heads = size_or(c, "num_heads", size_or(c, "expand", 2)? * hidden / head_dim)?;
    let (groups, kernel) = (size_or(c, "n_groups", 1)?, size_or(c, "conv_kernel", 4)?);
    let sizes = [heads, head_dim, size_or(c, "state_size", 128)?, groups, kernel];
    Ok(Mamba2 {
        bias: [c.flag("use_bias")?; 2],
        conv_bias: c.flag_or("use_conv_bias", true)?,
        dt_limit: limits(c, "dt_limit", (0.0, f32::INFINITY))?,
        norm: if c.flag_or("rmsnorm", true)? { GatedNorm::PerGroup } else { GatedNorm::None },
        gate_first: !c.flag("norm_before_gate")?,
        skip: if c.flag("D_has_hdim")? { Skip::PerChannel } else { Skip::PerHead },
        ..Mamba2::new(hidden, sizes, c.f32_or("norm_eps", 1e-5f32)?)
    })
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    if is_fla(c) {
        plain_checkpoint(c, t)?
    } else {
        tied_checkpoint(c, t)?
    };
    t.replace_prefix("backbone.embedding.", "backbone.embeddings.")?;
    t.conv_last("conv1d.weight")
}
