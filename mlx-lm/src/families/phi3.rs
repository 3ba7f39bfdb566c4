//! Phi-3 and Phi-4: llama with one matrix for q, k, v and one for gate and up; long rotary factors.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["phi3"], blueprint, checkpoint: plain_checkpoint };

/// Stands beside `rope_scaling`; Python does not read the one within, nor magnitudes, nor scalings of other kinds.
pub const TRAINED: &str = "original_max_position_embeddings";

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims_shared(c)?;
    let mut rope = c.rope_trained(c.usize_or(TRAINED, 4096)?)?;
    rope.max_position_embeddings.get_or_insert(131_072);
    match &mut rope.kind {
        RopeKind::LongRope { long_mscale, .. } => *long_mscale = None,
        RopeKind::Linear { .. } => {}
        other => *other = RopeKind::Default,
    }
    let rope = Rope::partial(&rope, d.head_dim, 1.0, 10_000.0);
    let mixer = Attention::new(d.hidden, d.heads, d.kv_heads, d.head_dim)
        .rope(rope.traditional(c.flag_or("rope_traditional", false)?))
        .fused("qkv_proj", FusedQkv::Blocks);
    let mlp = swiglu(&d).fused_gate_up("gate_up_proj", "down_proj");
    Ok(llama_shape(&d, mixer, mlp, tied_or(c, false)?))
}
