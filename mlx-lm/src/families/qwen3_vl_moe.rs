//! Text side of Qwen3-VL-MoE: qwen3_moe under `language_model`, experts published as [in, out] with gate and up joined.

use super::Family;
use super::common::{size, text_names};
use super::qwen3_moe;
use crate::Result;
use crate::blueprint::Blueprint;
use crate::config::Config;
use crate::weights::Tensors;

pub const FAMILY: Family = Family { model_types: &["qwen3_vl_moe"], blueprint, checkpoint };

pub fn blueprint(c: &Config) -> Result<Blueprint> {
    (qwen3_moe::FAMILY.blueprint)(c)
}

fn checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    text_names(t)?;
    split_joined_experts(t, size(c, "moe_intermediate_size")?)?;
    (qwen3_moe::FAMILY.checkpoint)(c, t)
}

/// `experts.gate_up_proj` [E, D, 2 I] and `experts.down_proj` [E, I, D] become `switch_mlp` matrices [E, out, in].
fn split_joined_experts(t: &mut Tensors, inner: i32) -> Result<()> {
    for name in t.select(|n| n.ends_with(".mlp.experts.gate_up_proj")) {
        let at = name.replace(".experts.gate_up_proj", ".switch_mlp");
        let (gate, up) = (format!("{at}.gate_proj.weight"), format!("{at}.up_proj.weight"));
        let down = format!("{at}.down_proj.weight");
        t.split(&name, -1, &[(inner, &gate), (inner, &up)])?;
        t.rename(&name.replace("gate_up_proj", "down_proj"), down.as_str())?;
        t.transpose_where(|n| [&gate, &up, &down].iter().any(|m| *m == n))?;
    }
    Ok(())
}
