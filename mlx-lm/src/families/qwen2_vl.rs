//! Text side of Qwen2-VL and Qwen2.5-VL: qwen2 under `language_model`.

use super::prelude::*;
use super::qwen2;

pub const FAMILY: Family = Family { model_types: &["qwen2_vl"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    Ok((qwen2::FAMILY.blueprint)(c)?.wrapped())
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    (qwen2::FAMILY.checkpoint)(c, t)
}
