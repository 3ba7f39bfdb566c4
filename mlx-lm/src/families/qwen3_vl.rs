//! Text side of Qwen3-VL: qwen3 under `language_model`.

use super::prelude::*;
use super::qwen3;

pub const FAMILY: Family = Family { model_types: &["qwen3_vl"], blueprint: qwen3::blueprint, checkpoint };

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    (qwen3::FAMILY.checkpoint)(c, t)
}
