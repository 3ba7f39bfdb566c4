//! Quirks of checkpoints that many families share.

use crate::families::prelude::*;

/// As [`plain_checkpoint`], for families whose head is tied by default.
pub fn tied_checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    if tied_or(c, true)? {
        t.drop_where(|n| n.starts_with("lm_head."));
    }
    plain_checkpoint(c, t)
}

/// Nothing but what no model needs: rotary tables, and a head that is tied.
pub fn plain_checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    t.drop_where(|n| n.ends_with("rotary_emb.inv_freq"));
    if c.tie_word_embeddings()?.unwrap_or(false) {
        t.drop_where(|n| n.starts_with("lm_head."));
    }
    Ok(())
}

/// The text part of a multimodal checkpoint under plain names: towers are dropped, `language_model.` goes.
pub fn text_names(t: &mut Tensors) -> Result<()> {
    const TOWERS: [&str; 11] = [
        "mm_projector.",
        "vision_adapter.",
        "vision_projection.",
        "vision_tower.",
        "vision_model.",
        "multi_modal_projector.",
        "visual.",
        "audio_tower.",
        "embed_audio.",
        "embed_vision.",
        "vision_embedder.",
    ];
    t.drop_where(|n| {
        let n = n.strip_prefix("model.").unwrap_or(n);
        TOWERS.iter().any(|p| n.starts_with(p))
    });
    t.replace_prefix("model.language_model.", "model.")?;
    t.replace_prefix("language_model.", "")
}

/// Drops layers that the config does not count (multi-token prediction).
pub fn drop_extra_layers(t: &mut Tensors, layers: i32) {
    t.drop_where(|n| {
        let layer =
            n.strip_prefix("model.layers.").and_then(|r| r.split('.').next()).and_then(|l| l.parse::<i32>().ok());
        layer.is_some_and(|l| l >= layers)
    });
}
