//! Ling 2.5 (bailing): lightning attention in all but the last layer of each group, which has latent attention.

use super::bailing_moe::{self, Defaults, attention, decoder, is_global, moe};
use super::bailing_moe_linear::lightning;
use super::deepseek_v3::{self, split_kv_b_at};
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["bailing_hybrid"], blueprint, checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let full: Part = Rc::new(mla(c, &d)?);
    let rope = Rope::partial(&c.rope()?, d.head_dim, 0.5, 10_000.0);
    let linear = attention(c, &Dims { kv_heads: d.heads, ..d }, rope, true)?;
    let group = size(c, "layer_group_size")?.max(1);
    let mixers: Vec<Part> = (0..d.layers)
        .map(|i| match is_global(i, d.layers, group) {
            true => Ok(full.clone()),
            false => Ok(Rc::new(lightning(c, &d, &linear, i)?) as Part),
        })
        .collect::<Result<_>>()?;
    let defaults = Defaults { score: "sigmoid", bias: true, fill: f32::NEG_INFINITY, shared_in_all: true };
    decoder(c, &d, moe(c, &d, &defaults)?, |i| mixers[i as usize].clone())
}

/// DeepSeek's attention under bailing's names and keys.
pub fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    let deepseek = deepseek_v3::mla(c, d)?;
    let interleaved = c.flag_or("rope_interleave", true)?;
    Ok(Mla {
        q_rank: if c.has("q_lora_rank") { deepseek.q_rank } else { None },
        bias: c.flag_or("use_qkv_bias", false)?,
        eps: Some(d.eps),
        rope: deepseek.rope.map(|r| r.traditional(interleaved)),
        o: "dense".into(),
        ..deepseek
    })
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    let d = dims(c)?;
    drop_extra_layers(t, d.layers);
    bailing_moe::checkpoint(c, t)?;
    split_kv_b(&mla(c, &d)?, t, d.layers)
}

/// `kv_b_proj` of every layer, cut as Python mlx-lm does.
pub fn split_kv_b(m: &Mla, t: &mut Tensors, layers: i32) -> Result<()> {
    (0..layers).try_for_each(|l| split_kv_b_at(m, t, &format!("model.layers.{l}.attention")))
}
