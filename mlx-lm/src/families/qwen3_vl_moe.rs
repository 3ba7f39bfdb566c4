//! Text side of Qwen3-VL-MoE: qwen3_moe under `language_model`, experts published as [in, out] with gate and up joined.

use super::prelude::*;
use super::qwen3_moe;

pub const FAMILY: Family = Family { model_types: &["qwen3_vl_moe"], blueprint: qwen3_moe::blueprint, checkpoint };

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    split_joined_experts(t, size(c, "moe_intermediate_size")?, ".mlp.experts", ".mlp.switch_mlp")?;
    (qwen3_moe::FAMILY.checkpoint)(c, t)
}
