//! Text side of Qwen2-VL and Qwen2.5-VL: qwen2 under `language_model`.

use super::Family;
use super::common::{text_names};
use super::qwen2;
use crate::Result;
use crate::blueprint::{Blueprint};
use crate::config::Config;
use crate::weights::Tensors;

pub const FAMILY: Family = Family { model_types: &["qwen2_vl"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    Ok((qwen2::FAMILY.blueprint)(c)?.wrapped())
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    (qwen2::FAMILY.checkpoint)(c, t)
}
