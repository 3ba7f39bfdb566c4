//! Gated DeltaNet as the linear-attention library publishes it.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["gated_deltanet"], blueprint, checkpoint: fla_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size_or(c, "hidden_size", 2048)?;
    let heads = delta_heads(c, hidden, 6, 256, 2.0)?;
    let gate = c.flag_or("use_gate", true)?;
    let mixer = GatedDelta { heads, layout: GatedDeltaLayout::Separate, gate };
    fla_decoder(c, hidden, 21, mixer)
}
