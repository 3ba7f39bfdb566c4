//! MiniCPM3: MiniCPM's factors around latent attention.

use super::granite::scale_branches;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["minicpm3"], blueprint, checkpoint: plain_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let tied = tied_or(c, false)?;
    let layers = vec![llama_layer(&d, mla(c, &d)?, swiglu(&d)); d.layers as usize];
    let mut b = Blueprint::new(d.vocab, d.hidden, rms(&d), tied, layers);
    scale_branches(&mut b, c.f32("scale_depth")? / (d.layers as f32).sqrt());
    b.embed.scale = Some(EmbedScale { value: c.f32("scale_emb")?, round_bf16: false });
    if !tied {
        b.head.scale = c.f32("dim_model_base")? / d.hidden as f32;
    }
    Ok(b)
}

fn mla(c: &Config, d: &Dims) -> Result<Mla> {
    let (nope_dim, rope_dim) = (size(c, "qk_nope_head_dim")?, size(c, "qk_rope_head_dim")?);
    let (q_rank, kv_rank) = (size(c, "q_lora_rank")?, size(c, "kv_lora_rank")?);
    let trained =
        c.opt_sub("rope_scaling")?.map(|s| s.usize_or("original_max_position_embeddings", 4096)).transpose()?;
    let mut rope = trained.map_or_else(|| c.rope(), |n| c.rope_trained(n))?;
    if let RopeKind::LongRope { long_mscale, .. } = &mut rope.kind {
        *long_mscale = None;
    }
    Ok(Mla {
        bias: c.flag_or("attention_bias", false)?,
        eps: Some(1e-5),
        rope: Some(Rope::from_config(&rope, rope_dim, 1_000_000.0)),
        layout: MlaLayout::Joined,
        ..Mla::new(d.hidden, d.heads, Some(q_rank), kv_rank, [nope_dim, rope_dim, d.hidden / d.heads])
    })
}
