//! EXAONE 4: norms on the outputs only, per head on q and k; global layers do not rotate.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["exaone4"], blueprint, checkpoint: plain_checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    let d = dims(c)?;
    let base = attention(c, &d)?.qk_norm(QkNormKind::PerHead, rms(&d));
    let pattern = c.opt_str("sliding_window_pattern")?.unwrap_or_default().as_bytes();
    let norms = ["", "post_attention_layernorm", "", "post_feedforward_layernorm"];
    try_decoder(&d, rms(&d), tied_or(c, false)?, |i| {
        let i = i as usize;
        let mut mixer = base.clone();
        if !pattern.is_empty() {
            if pattern[i % pattern.len()] == b'L' {
                mixer = mixer.sliding(size(c, "sliding_window")?);
            } else {
                mixer.rope = None;
            }
        }
        Ok(sandwich_layer(norms, rms(&d), mixer, swiglu(&d)))
    })
}
