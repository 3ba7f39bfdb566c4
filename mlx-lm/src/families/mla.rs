//! The linear-attention library's latent attention (arXiv:2405.04434).

use super::deepseek_v3::yarn_scale;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["mla"], blueprint, checkpoint: plain_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size_or(c, "hidden_size", 2048)?;
    let mla = mla(c, hidden)?;
    fla_decoder(c, hidden, 24, mla)
}

fn mla(c: &Config, hidden: i32) -> Result<Mla> {
    let parts = ["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"];
    let [nope, rope_dim, v] = [size_or(c, parts[0], 128)?, size_or(c, parts[1], 64)?, size_or(c, parts[2], 128)?];
    let q_rank = if c.is_null("q_lora_rank") { None } else { Some(size_or(c, "q_lora_rank", 64)?) };
    let rope = c.rope()?;
    let m =
        Mla::new(hidden, size_or(c, "num_heads", 16)?, q_rank, size_or(c, "kv_lora_rank", 512)?, [nope, rope_dim, v]);
    Ok(Mla {
        eps: Some(1e-5),
        scale: m.scale * yarn_scale(&rope),
        // scaling changes the scale of attention only, not the rotation
        rope: Some(Rope::plain(rope_dim, rope.theta_or(10_000.0))),
        layout: MlaLayout::Sequential,
        window: c.opt_usize("window_size")?.map(|w| fit(c, "window_size", w)).transpose()?,
        ..m
    })
}
