//! MiMo-V2-Flash: other head counts on sliding layers, sinks, scaled values, narrower value heads, fp8 blocks.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mimo_v2_flash"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let d = Dims { eps: c.f32("layernorm_epsilon")?, ..d };
    let share = c.rope()?.partial_rotary_factor.unwrap_or(1.0);
    let mixer = |prefix: &str, sinks: &str, theta: f64| -> Result<Attention> {
        let key = |k: &str| size(c, &format!("{prefix}{k}"));
        let (heads, kv_heads) = (key("num_attention_heads")?, key("num_key_value_heads")?);
        let head_dim = key("head_dim")?;
        let rope = Rope::plain((share * head_dim as f64) as i32, theta);
        let mut mixer = Attention::new(d.hidden, heads, kv_heads, head_dim).rope(rope);
        mixer.v_head_dim = Some(key("v_head_dim")?);
        mixer.value_scale = c.opt_f32("attention_value_scale")?;
        mixer.sinks = c.flag_or(sinks, false)?.then(|| "attention_sink_bias".into());
        Ok(mixer)
    };
    let full = mixer("", "add_full_attention_sink_bias", c.rope()?.theta_or(10_000.0))?;
    let local = mixer("swa_", "add_swa_attention_sink_bias", c.f64("swa_rope_theta")?)?
        .sliding(size(c, "sliding_window_size")?);
    let moe = noaux_moe(c, &d)?;
    let (slides, sparse) = (c.usizes("hybrid_layer_pattern")?, c.usizes("moe_layer_freq")?);
    Ok(decoder(&d, rms(&d), false, |i| {
        let i = i as usize;
        let mixer = if slides.get(i) == Some(&1) { local.clone() } else { full.clone() };
        mixed_layer(&d, mixer, (sparse.get(i) == Some(&1)).then_some(&moe))
    }))
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.starts_with("model.mtp"));
    experts_checkpoint(c, t)
}
