//! PLaMo 1: one norm, attention and MLP in parallel; query heads take turns on the kv heads.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["plamo"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let shared = size_or(c, "n_shared_head", 8)?.max(1);
    let kv_heads = (d.heads + shared - 1) / shared;
    divides(c, "n_shared_head", kv_heads, d.heads)?;
    let head_dim = d.hidden / d.heads;
    let rope = Rope::from_config(&c.rope()?, head_dim, 10_000.0).traditional(c.flag_or("rope_traditional", false)?);
    let mut mixer = Attention::new(d.hidden, d.heads, kv_heads, head_dim).rope(rope);
    mixer.tiled_kv = true;
    let mut b = alike(&d, rms(&d), false, parallel(rms(&d), ["norm", "self_attn", "mlp"], mixer, swiglu(&d)));
    b.layers_path = "model.layers.layers".into();
    Ok(b)
}
