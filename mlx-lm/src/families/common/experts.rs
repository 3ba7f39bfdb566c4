//! Experts under the usual keys, and their tensors.

use crate::families::prelude::*;

/// Stacks published per-expert tensors of all layers: `model.layers.L.{from}.E.{leaf}` become
/// `model.layers.L.{to}.{leaf}`, for weights, scales and biases of gate, up and down.
pub fn stack_experts(t: &mut Tensors, layers: i32, experts: i32, from: &str, to: &str) -> Result<()> {
    let leaves = [("gate_proj", "gate_proj"), ("up_proj", "up_proj"), ("down_proj", "down_proj")];
    stack_experts_named(t, layers, experts, from, to, &leaves)
}

/// How many experts the config counts, under whatever key it has; without one, as many as there are under `from`.
fn expert_count(c: &Config, t: &Tensors, from: &str) -> Result<i32> {
    let keys = ["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"];
    let at = format!(".{from}.");
    let number = |n: &str| n.split_once(&at)?.1.split('.').next()?.parse::<i32>().ok();
    match keys.into_iter().find(|k| c.has(k)) {
        Some(key) => size(c, key),
        None => Ok(t.names().filter_map(number).max().map_or(0, |last| last + 1)),
    }
}

/// [`plain_checkpoint`], and published experts one by one under `mlp.experts` become `mlp.switch_mlp`.
pub fn experts_checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    let experts = expert_count(c, t, "mlp.experts")?;
    stack_experts(t, size(c, "num_hidden_layers")?, experts, "mlp.experts", "mlp.switch_mlp")
}

/// [`plain_checkpoint`], and experts under mixtral's names, w1, w3, w2 of `block_sparse_moe.experts`, are stacked.
pub fn mixtral_checkpoint(c: &Config, t: &mut Tensors) -> Result<()> {
    plain_checkpoint(c, t)?;
    let (layers, names) =
        (size(c, "num_hidden_layers")?, [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")]);
    let (from, to) = ("block_sparse_moe.experts", "block_sparse_moe.switch_mlp");
    let experts = expert_count(c, t, from)?;
    stack_experts_named(t, layers, experts, from, to, &names)
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
    let leaves = ["weight", "scales", "biases", "bias", "global_scale", "codebook", "power_signs"];
    leaves.iter().try_for_each(|leaf| t.stack(experts, |e| format!("{}.{leaf}", from(e)), format!("{to}.{leaf}")))
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
    Ok(moe.shared_experts(size(c, "moe_intermediate_size")? * size_or(c, "n_shared_experts", 0)?))
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
