//! Gated linear attention (arXiv:2312.06635).

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gla"], blueprint, checkpoint: fla_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size_or(c, "hidden_size", 2048)?;
    let expand = (c.f64_or("expand_k", 0.5)?, c.f64_or("expand_v", 1.0)?);
    let (gate, fused) = (c.flag_or("use_output_gate", true)?, c.flag_or("fuse_norm", true)?);
    let mixer = Gla {
        heads: linear_heads(c, hidden, 4, expand, c.flag("use_short_conv")?)?,
        // the published model sets neither from its config
        forget: Forget::Narrow(16),
        normalizer: 16.0,
        clamp_min: c.opt_f32("clamp_min")?,
        feature_map: feature_map(c, "feature_map")?,
        output: HeadOutput::swish(affine(c, eps(c)?)?, gate, fused),
    };
    fla_decoder(c, hidden, 24, mixer)
}
