//! Falcon-H1: mamba-2 and attention side by side in every layer; the multipliers of its training are folded into weights.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["falcon_h1"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let rope =
        Rope::from_config(&c.rope()?, d.head_dim, 100_000_000_000.0).traditional(c.flag_or("rope_traditional", false)?);
    let attention =
        Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim).bias(c.flag_or("attention_bias", false)?).rope(rope);
    let mixers = Beside([("mamba".into(), Rc::new(mamba(c, &d)?)), ("self_attn".into(), Rc::new(attention))]);
    let mlp = Mlp::swiglu(d.hidden, d.inner).bias(c.flag_or("mlp_bias", false)?);
    let layer = pre_norms(rms(&d), ["input_layernorm", "", "pre_ff_layernorm", "feed_forward"], mixers, mlp);
    let tied = tied_or(c, true)?;
    let mut b = alike(&d, rms(&d), tied, layer).paths("model.embed_tokens", "model.layers", "model.final_layernorm");
    if tied {
        b.head.scale = c.f32_or("lm_head_multiplier", 1.0f32)? / c.f32_or("embedding_multiplier", 1.0f32)?;
    }
    Ok(b)
}

fn mamba(c: &Config, d: &Dims) -> Result<Mamba2> {
    let [heads, width, state] = sizes(c, ["mamba_n_heads", "mamba_d_head", "mamba_d_state"])?;
    let sizes = [heads, width, state, size_or(c, "mamba_n_groups", 1)?, size_or(c, "mamba_d_conv", 4)?];
    let m = Mamba2 {
        bias: [c.flag_or("mamba_proj_bias", false)?, c.flag_or("projectors_bias", false)?],
        conv_bias: c.flag_or("mamba_conv_bias", true)?,
        norm: if c.flag_or("mamba_rms_norm", false)? { GatedNorm::Whole } else { GatedNorm::None },
        gate_first: !c.flag_or("mamba_norm_before_gate", false)?,
        ..Mamba2::new(d.hidden, sizes, d.eps)
    };
    check_groups(c, "mamba_n_groups", m)
}

/// A published checkpoint (its convolutions are `[C, 1, K]`) gets the multipliers; a converted one has them. As in Python
/// mlx-lm, `key_multiplier` is not applied.
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    tied_checkpoint(c, t)?;
    let convs = t.select(|n| n.ends_with("conv1d.weight"));
    if convs.iter().all(|n| t.shape(n).is_none_or(|s| s.last() == Some(&1))) {
        return Ok(());
    }
    t.conv_last("conv1d.weight")?;
    let factor = |key: &str| c.f32_or(key, 1.0f32);
    let mlp = c.opt_f64s("mlp_multipliers")?.unwrap_or_else(|| vec![1.0, 1.0]);
    let &[gate, down] = mlp.as_slice() else {
        return Err(c.error("mlp_multipliers", "expected two numbers"));
    };
    let attention_in = factor("attention_in_multiplier")?;
    let factors = [
        ("embed_tokens.weight", factor("embedding_multiplier")?),
        ("lm_head.weight", factor("lm_head_multiplier")?),
        ("q_proj.weight", attention_in),
        ("k_proj.weight", attention_in),
        ("o_proj.weight", factor("attention_out_multiplier")?),
        ("out_proj.weight", factor("ssm_out_multiplier")?),
        ("gate_proj.weight", gate as f32),
        ("down_proj.weight", down as f32),
    ];
    for (suffix, by) in factors {
        t.scale_where(|n| n.ends_with(suffix), by)?;
    }
    t.scale_rows_where(|n| n.ends_with("in_proj.weight"), &input_factors(c)?)
}

/// The rows of `in_proj`, (how many, their factor): gates, inputs, B, C, time steps.
fn input_factors(c: &Config) -> Result<Vec<(i32, f32)>> {
    let m = mamba(c, &dims(c)?)?;
    let (inner, group) = (m.heads * m.head_dim, m.groups * m.state);
    let sizes = [inner, inner, group, group, m.heads];
    let factors = c.opt_f64s("ssm_multipliers")?.unwrap_or_else(|| vec![1.0; sizes.len()]);
    if factors.len() != sizes.len() {
        return Err(c.error("ssm_multipliers", format!("expected {} numbers", sizes.len())));
    }
    let all = c.f32_or("ssm_in_multiplier", 1.0f32)?;
    Ok(sizes.into_iter().zip(factors).map(|(n, f)| (n, f as f32 * all)).collect())
}
