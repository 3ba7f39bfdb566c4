//! Ling linear (bailing): lightning attention in all but the last layer of each group, which has softmax attention.

use super::bailing_moe::{Defaults, attention, checkpoint, decoder, is_global, moe};
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["bailing_moe_linear"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let rope = Rope::partial(&c.rope()?, d.head_dim, 1.0, 10_000.0).traditional(c.flag_or("rope_traditional", false)?);
    let full: Part = Rc::new(attention(c, &d, rope.clone(), false)?);
    let linear = Dims { head_dim: d.hidden / d.heads, ..d };
    let rope = Rope::partial(&c.rope()?, linear.head_dim, 1.0, 10_000.0).traditional(rope.traditional);
    let linear = attention(c, &Dims { kv_heads: d.heads, ..linear }, rope, false)?;
    let group = size(c, "layer_group_size")?.max(1);
    let mixers: Vec<Part> = (0..d.layers)
        .map(|i| match is_global(i, d.layers, group) {
            true => Ok(full.clone()),
            false => Ok(Rc::new(lightning(c, &d, &linear, (i - 1).max(0))?) as Part),
        })
        .collect::<Result<_>>()?;
    decoder(c, &d, moe(c, &d, &Defaults::SOFTMAX)?, |i| mixers[i as usize].clone())
}

/// Linear attention with the leaves of `a`; heads forget less the further down the stack `place` is.
pub fn lightning(c: &Config, d: &Dims, a: &Attention, place: i32) -> Result<Lightning> {
    Ok(Lightning {
        hidden: d.hidden,
        heads: a.heads,
        head_dim: a.head_dim,
        projections: a.projections.clone(),
        qkv_bias: a.qkv_bias,
        o: a.o.clone(),
        o_bias: a.o_bias,
        qk_norm: a.qk_norm.clone(),
        rope: a.rope.clone(),
        rate: (1.0 - f64::from(place) / f64::from((d.layers - 1).max(1)) + 1e-5) as f32,
        gate: Some(LightningGate {
            name: "g_proj".into(),
            norm: ("g_norm".into(), rms(d)),
            groups: size(c, "group_norm_size")?,
        }),
    })
}
