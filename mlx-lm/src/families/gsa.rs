//! Gated slot attention (arXiv:2409.07146).

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gsa"], blueprint, checkpoint: fla_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size_or(c, "hidden_size", 2048)?;
    // a key that the library writes, or the one that it documents; its eps, output gate and clamps have no effect
    let expand = |key: &str, documented: &str| c.f64_or(key, c.f64_or(documented, 1.0)?);
    let expand = (expand("expand_k", "exapnd_k")?, expand("expand_v", "exapnd_v")?);
    let heads = linear_heads(c, hidden, 4, expand, c.flag("use_short_conv")?)?;
    let feature_map = match c.str_or("feature_map", "swish")? {
        "t2r" => SlotMap::Learned,
        _ => SlotMap::Act(feature_map(c, "feature_map")?.unwrap_or(Activation::Silu)),
    };
    let mixer = Gsa {
        // a null is as wide as a key
        slots: size_or(c, "num_slots", if c.is_null("num_slots") { heads.key_dim } else { 64 })?,
        heads,
        normalizer: c.f32_or("gate_logit_normalizer", 8f32)?,
        scale: 1.0,
        feature_map: Some(feature_map),
        output: SlotOutput::Normed("g_norm".into(), affine(c, 1e-5)?),
    };
    fla_decoder(c, hidden, 24, mixer)
}
