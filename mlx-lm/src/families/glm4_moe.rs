//! GLM-4.5 to 4.7: partly rotated heads, sigmoid router with correction bias, shared experts.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["glm4_moe", "solar_open"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let mut mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(Rope::plain(partial_dims(c, &d)?, c.rope()?.theta_or(10_000.0)));
    mixer.qkv_bias = c.flag_or("attention_bias", false)?;
    if c.flag_or("use_qk_norm", false)? {
        mixer = mixer.qk_norm(QkNormKind::PerHead, rms(&d));
    }
    let moe = noaux_moe(c, &d)?;
    let dense = size(c, "first_k_dense_replace")?;
    Ok(decoder(&d, rms(&d), false, |i| mixed_layer(&d, mixer.clone(), (i >= dense).then_some(&moe))))
}

fn partial_dims(c: &Config, d: &Dims) -> Result<i32> {
    Ok((d.head_dim as f64 * c.rope()?.partial_rotary_factor.unwrap_or(1.0)) as i32)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    drop_extra_layers(t, size(c, "num_hidden_layers")?);
    experts_checkpoint(c, t)
}
