//! MiniCPM: llama with factors on embeddings, residual branches and logits (muP).

use super::granite::scale_branches;
use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["minicpm"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let tied = tied_or(c, false)?;
    let mut b = llama_shape(&d, attention(c, &d)?, swiglu(&d), tied);
    scale_branches(&mut b, c.f32("scale_depth")? / (d.layers as f32).sqrt());
    b.embed.scale = Some(EmbedScale { value: c.f32("scale_emb")?, round_bf16: false });
    if !tied {
        // a checkpoint without a head uses the embedding, divided all the same
        b.head.tied = Tied::IfAbsent;
        b.head.scale = c.f32("dim_model_base")? / d.hidden as f32;
    }
    Ok(b)
}
