//! PLaMo 2: mamba and attention layers by turns, sandwich norms stored less an offset, fused projections.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["plamo2"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { head_dim: size_or(c, "hidden_size_per_head", 128)?, ..d };
    let norm = |offset| Norm::rms_offset(d.eps, offset);
    let mamba = PlamoMamba {
        hidden: d.hidden,
        heads: size_or(c, "mamba_num_heads", 64)?,
        head_dim: d.head_dim,
        state: size_or(c, "mamba_d_state", 64)?,
        dt_rank: (d.hidden / 16).max(64),
        dt_limit: (0.001, 100.0),
        kernel: size_or(c, "mamba_d_conv", 4)?,
        eps: d.eps,
    };
    // all layers attend in full, as in Python mlx-lm, whatever `attention_window_size` says
    let attention = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .fused("qkv_proj", FusedQkv::Blocks)
        .rope(Rope::plain(d.head_dim, 10_000.0))
        .qk_norm(QkNormKind::RowPerHead, Norm::rms(1e-6));
    let mlp = Mlp::swiglu(d.hidden, d.inner).fused_gate_up("gate_up_proj", "down_proj");
    let attends = attention_layers(c, d.layers)?;
    let mut b = decoder(&d, norm(1.0), tied_or(c, true)?, |i| {
        let mixer = match attends(i) {
            true => Branch::mixer("pre_mixer_norm", norm(1.0), "mixer", attention.clone()),
            false => Branch::mixer("pre_mixer_norm", norm(1.0), "mixer", mamba.clone()),
        };
        let ffn = Branch::ffn("pre_mlp_norm", norm(1.0), "mlp", mlp.clone());
        Layer::sequential([
            mixer.post_norm("post_mixer_norm", norm(0.2)),
            ffn.post_norm("post_mlp_norm", norm(5f32.powf(-1.5))),
        ])
    });
    b.layers_path = "model.layers.layers".into();
    Ok(b)
}

/// One layer of every `mamba_step` attends; in a shallower model, the last one.
fn attention_layers(c: &Config, layers: i32) -> Result<impl Fn(i32) -> bool> {
    let (enabled, step) = (c.flag_or("mamba_enabled", true)?, size_or(c, "mamba_step", 2)?);
    if enabled && step < 2 {
        return Err(c.error("mamba_step", format!("{step} is less than 2")));
    }
    Ok(move |i: i32| match enabled {
        false => true,
        true if layers <= step / 2 => i == layers - 1,
        true => i % step == step / 2,
    })
}

/// Factors of heads are bare tensors in checkpoints: norms here.
fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    tied_checkpoint(c, t)?;
    t.rename_all(|n| {
        let q = n.strip_suffix("mixer.q_weight").map(|p| format!("{p}mixer.q_norm.weight"));
        let k = n.strip_suffix("mixer.k_weight").map(|p| format!("{p}mixer.k_norm.weight"));
        Some(q.or(k).unwrap_or_else(|| n.into()))
    })?;
    t.conv_last("conv1d.weight")
}
