//! Kimi Delta Attention as the linear-attention library publishes it.

use super::prelude::*;

pub const FAMILY: Family = Family { model_types: &["kda"], blueprint, checkpoint: fla_checkpoint };

fn blueprint(c: &Config) -> Result<Blueprint> {
    let hidden = size_or(c, "hidden_size", 2048)?;
    let heads = delta_heads(c, hidden, 16, 128, 1.0)?;
    let rank = heads.value_dim;
    let low_rank = |name: &str, bias: bool| Projection::LowRank {
        first: format!("{name}.0"),
        second: format!("{name}.1"),
        rank,
        bias,
    };
    let kda = Kda {
        heads,
        qkv: QkvNames::separate(),
        lower_bound: c.opt_f32("lower_bound")?,
        decay: low_rank("f_proj", false),
        gate: low_rank("g_proj", true),
    };
    fla_decoder(c, hidden, 24, kda)
}
