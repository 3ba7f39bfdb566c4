//! Retentive networks (arXiv:2307.08621).

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["retnet"], blueprint, checkpoint: fla_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size_or(c, "hidden_size", 2048)?;
    let expand = (c.f64_or("expand_k", 1.0)?, c.f64_or("expand_v", 2.0)?);
    let (gate, fused) = (c.flag_or("use_output_gate", true)?, c.flag_or("fuse_norm", true)?);
    // the published model has no convolutions, whatever use_short_conv says
    let heads = linear_heads(c, hidden, 8, expand, false)?;
    let mixer = Retention {
        rope: Some(Rope::plain(heads.key_dim, 10_000.0)),
        heads,
        feature_map: feature_map(c, "feature_map")?,
        output: HeadOutput::swish(affine(c, eps(c)?)?, gate, fused),
    };
    fla_decoder_with(c, hidden, 24, 2, mixer)
}
