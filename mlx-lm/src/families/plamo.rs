//! PLaMo 1: one norm, attention and MLP in parallel; query heads take turns on the kv heads.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["plamo"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let shared = size_or(c, "n_shared_head", 8)?.max(1);
    let kv_heads = (d.heads + shared - 1) / shared;
    if d.heads % kv_heads != 0 {
        return Err(c.error("n_shared_head", format!("{kv_heads} kv heads do not divide {} heads", d.heads)));
    }
    let head_dim = d.hidden / d.heads;
    let rope = Rope::from_config(&c.rope()?, head_dim, 10_000.0).traditional(c.flag_or("rope_traditional", false)?);
    let mut mixer = Attention::new(d.hidden, d.heads, kv_heads, head_dim).rope(rope);
    mixer.tiled_kv = true;
    let branches = [
        Branch::mixer("", rms(&d), "self_attn", mixer).no_norm(),
        Branch::ffn("", rms(&d), "mlp", swiglu(&d)).no_norm(),
    ];
    let layer = Layer::parallel(Some(("norm".into(), rms(&d))), branches);
    let mut b = Blueprint::new(d.vocab, d.hidden, rms(&d), false, vec![layer; d.layers as usize]);
    b.layers_path = "model.layers.layers".into();
    Ok(b)
}
