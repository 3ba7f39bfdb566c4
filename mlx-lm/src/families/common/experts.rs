//! Experts under the usual keys, and their tensors.

use super::{Dims, size, size_or};
use crate::Result;
use crate::blueprint::{GroupScore, Groups, Mlp, Moe, Router};
use crate::config::Config;
use crate::weights::Tensors;

/// Stacks published per-expert tensors of all layers: `model.layers.L.{from}.E.{leaf}` become
/// `model.layers.L.{to}.{leaf}`, for weights, scales and biases of gate, up and down.
pub fn stack_experts(t: &mut Tensors, layers: i32, experts: i32, from: &str, to: &str) -> Result<()> {
    let leaves = [("gate_proj", "gate_proj"), ("up_proj", "up_proj"), ("down_proj", "down_proj")];
    stack_experts_named(t, layers, experts, from, to, &leaves)
}

/// As [`stack_experts`], with the published leaf names and what they become (mixtral's w1, w3, w2).
pub fn stack_experts_named(
    t: &mut Tensors,
    layers: i32,
    experts: i32,
    from: &str,
    to: &str,
    names: &[(&str, &str)],
) -> Result<()> {
    for l in 0..layers {
        let layer = format!("model.layers.{l}");
        for (old, new) in names {
            stack_matrices(t, experts, |e| format!("{layer}.{from}.{e}.{old}"), &format!("{layer}.{to}.{new}"))?;
        }
    }
    Ok(())
}

/// Stacks the matrices of all experts, whatever they are made of: modules `from(e)` become `to`.
pub fn stack_matrices(t: &mut Tensors, experts: i32, from: impl Fn(i32) -> String, to: &str) -> Result<()> {
    let leaves = ["weight", "scales", "biases", "bias", "global_scale", "codebook"];
    leaves.iter().try_for_each(|leaf| t.stack(experts, |e| format!("{}.{leaf}", from(e)), format!("{to}.{leaf}")))
}

/// Width of the shared experts, if the config has any (`n_shared_experts`).
pub fn shared_width(c: &Config) -> Result<Option<i32>> {
    Ok(match c.opt_usize("n_shared_experts")? {
        None | Some(0) => None,
        Some(n) => Some(size(c, "moe_intermediate_size")? * n as i32),
    })
}

/// `n_group` groups of experts, of which the `topk_group` with the best two are chosen from (DeepSeek-V3).
pub fn groups(c: &Config, experts: i32) -> Result<Groups> {
    groups_at(c, "n_group", experts)
}

/// As [`groups`], with their number under another key.
pub fn groups_at(c: &Config, key: &str, experts: i32) -> Result<Groups> {
    let groups =
        Groups { count: size_or(c, key, 1)?, top: size_or(c, "topk_group", 1)?, score: GroupScore::TopTwo, fill: 0.0 };
    if groups.count > 1 && experts % groups.count != 0 {
        return Err(c.error(key, format!("{} does not divide {experts} experts", groups.count)));
    }
    if groups.count > 1 && !(1..=groups.count).contains(&groups.top) {
        return Err(c.error("topk_group", format!("{} of {} groups", groups.top, groups.count)));
    }
    Ok(groups)
}

/// Experts under DeepSeek-V3's keys: sigmoid scores, a correction bias, groups, shared experts.
pub fn noaux_moe(c: &Config, d: &Dims) -> Result<Moe> {
    let groups = groups(c, size(c, "n_routed_experts")?)?;
    let top_k = size(c, "num_experts_per_tok")?;
    let renormalise = top_k > 1 && c.flag_or("norm_topk_prob", true)?;
    let router = Router::noaux(Some(groups), renormalise, c.f32_or("routed_scaling_factor", 1f32)?);
    let moe = Moe::swiglu(d.hidden, size(c, "moe_intermediate_size")?, size(c, "n_routed_experts")?, top_k, router);
    Ok(match shared_width(c)? {
        Some(inner) => moe.shared("shared_experts", Mlp::swiglu(d.hidden, inner), None),
        None => moe,
    })
}

/// `{from}.gate_up_proj` [E, 2 I, D] and `{from}.down_proj` [E, D, I] (transformers) become matrices under `to`.
pub fn split_fused_experts(t: &mut Tensors, inner: i32, from: &str, to: &str) -> Result<()> {
    let (fused, outward) = (format!("{from}.gate_up_proj"), format!("{from}.down_proj"));
    for name in t.select(|n| n.ends_with(&fused)) {
        let layer = name.trim_end_matches(fused.as_str());
        let [gate, up, down] = ["gate_proj", "up_proj", "down_proj"].map(|p| format!("{layer}{to}.{p}.weight"));
        t.split(&name, 1, &[(inner, &gate), (inner, &up)])?;
        t.rename(&format!("{layer}{outward}"), down)?;
    }
    Ok(())
}

/// `{from}.gate_up_proj` [E, D, 2 I] and `{from}.down_proj` [E, I, D] become matrices [E, out, in] under `to`.
pub fn split_joined_experts(t: &mut Tensors, inner: i32, from: &str, to: &str) -> Result<()> {
    let (joined, outward) = (format!("{from}.gate_up_proj"), format!("{from}.down_proj"));
    for name in t.select(|n| n.ends_with(&joined)) {
        let layer = name.trim_end_matches(joined.as_str());
        let [gate, up, down] = ["gate_proj", "up_proj", "down_proj"].map(|p| format!("{layer}{to}.{p}.weight"));
        t.split(&name, -1, &[(inner, &gate), (inner, &up)])?;
        t.rename(&format!("{layer}{outward}"), down.as_str())?;
        t.transpose_where(|n| [&gate, &up, &down].iter().any(|m| *m == n))?;
    }
    Ok(())
}
