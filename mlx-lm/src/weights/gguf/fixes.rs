//! Configs of the architectures whose layers differ from one another (gemma3n, gemma4, qwen3next, llama4).
use serde_json::{Map, Value as Json, json};

use super::config::{Facts, partial_rotary, scaling, size};
use super::value::{Array, Value};
use crate::{Error, Result};

/// Types of layers from a list of which slide.
fn layer_types(facts: &Facts) -> Result<Vec<&'static str>> {
    let key = "attention.sliding_window_pattern";
    let pattern = facts.get(key).and_then(Value::to_i64s).ok_or_else(|| facts.error(key, "missing or not a list"))?;
    Ok(pattern.iter().map(|s| if *s != 0 { "sliding_attention" } else { "full_attention" }).collect())
}

/// Rows of the table of inputs for each layer.
fn per_layer_vocab(facts: &Facts, map: &mut Map<String, Json>) {
    if let Some(rows) = facts.shape("per_layer_token_embd.weight").and_then(|s| s.first()) {
        map.insert("vocab_size_per_layer_input".into(), (*rows).into());
    }
}

pub(super) fn gemma3n(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    map.insert("layer_types".into(), layer_types(facts)?.into());
    per_layer_vocab(facts, map);
    // llama.cpp's own number where the file has none
    let layers = facts.usize("block_count")?;
    map.entry("num_kv_shared_layers").or_insert(layers.saturating_sub(20).into());
    let rank = facts.shape("blk.0.laurel_l.weight").and_then(|s| s.first().copied());
    map.insert("laurel_rank".into(), rank.ok_or_else(|| Error::tensor("blk.0.laurel_l.weight", "missing"))?.into());
    if let Some(Value::Array(Array::F32(deviations))) = facts.get("activation_sparsity_scale") {
        let shares = deviations.iter().map(|m| if m.is_finite() { normal_share(f64::from(*m)) } else { 0.0 });
        map.insert("activation_sparsity_pattern".into(), shares.collect::<Vec<_>>().into());
    }
    Ok(())
}

/// The share of a normal distribution below `x` deviations: 1/2 + density (x + x^3 / 3 + x^5 / 15 + ..).
fn normal_share(x: f64) -> f64 {
    let x = x.clamp(-8.0, 8.0);
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

pub(super) fn gemma4(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    let types = layer_types(facts)?;
    per_layer_vocab(facts, map);
    let own = |kind: &str, list: Vec<i64>| types.iter().zip(list).find(|(t, _)| **t == kind).map(|(_, n)| n);
    if let Some(heads) = facts.get("attention.head_count_kv").and_then(Value::to_i64s) {
        for (key, kind) in
            [("num_key_value_heads", "sliding_attention"), ("num_global_key_value_heads", "full_attention")]
        {
            if let Some(n) = own(kind, heads.clone()) {
                map.insert(key.into(), n.into());
            }
        }
    }
    let widths = facts.get("feed_forward_length").and_then(Value::to_i64s);
    let ends = widths.as_ref().and_then(|w| w.first().zip(w.last()));
    map.insert("use_double_wide_mlp".into(), ends.is_some_and(|(first, last)| last > first).into());
    if let Some((first, _)) = ends {
        map.insert("intermediate_size".into(), (*first).into());
    }
    let full = types.iter().position(|t| *t == "full_attention");
    let shared = full.is_some_and(|i| !facts.has_tensor(&format!("blk.{i}.attn_v.weight")));
    map.insert("attention_k_eq_v".into(), shared.into());
    map.insert("enable_moe_block".into(), facts.has_tensor("blk.0.ffn_gate_inp.weight").into());
    // wavelengths that never turn end the part of a head that does
    let turns =
        facts.values("rope_freqs.weight")?.map(|f| f.iter().filter(|f| **f < 1e20).count() as f64 / f.len() as f64);
    let local = map.remove("rope_local_base_freq").unwrap_or(10_000.0.into());
    let theta = map.remove("rope_theta").unwrap_or(1_000_000.0.into());
    map.insert(
        "rope_parameters".into(),
        json!({"full_attention": {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": turns.unwrap_or(1.0)},
               "sliding_attention": {"rope_type": "default", "rope_theta": local}}),
    );
    map.insert("layer_types".into(), types.into());
    Ok(())
}

pub(super) fn qwen3_next(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    let (inner, heads) = (facts.usize("ssm.inner_size")?, facts.usize("ssm.time_step_rank")?);
    map.insert("linear_value_head_dim".into(), inner.checked_div(heads).unwrap_or(0).into());
    let dense = (0..facts.usize("block_count")?).filter(|i| !facts.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight")));
    map.insert("mlp_only_layers".into(), dense.collect::<Vec<_>>().into());
    map.insert("decoder_sparse_step".into(), 1.into());
    map.insert("norm_topk_prob".into(), true.into());
    partial_rotary(facts, map)
}

/// Rows of q, k, v of all heads and z of all heads as Qwen3-Next packs them: q, k, v, z of each key head.
pub(super) fn qkvz_order(map: &Map<String, Json>) -> Option<Vec<u32>> {
    let read = |key: &str| u32::try_from(size(map, key)?).ok().filter(|n| (1..1 << 16).contains(n));
    let (heads, width) = (read("linear_num_key_heads")?, read("linear_key_head_dim")?);
    let values = read("linear_num_value_heads")?.checked_mul(read("linear_value_head_dim")?)?;
    let (key, own) = (heads.checked_mul(width)?, values / heads);
    let parts = [(0, width), (key, width), (2 * key, own), (2 * key + values, own)];
    Some((0..heads).flat_map(|h| parts.into_iter().flat_map(move |(at, n)| at + h * n..at + (h + 1) * n)).collect())
}

pub(super) fn llama4(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    if facts.get("attention.sliding_window").and_then(Value::as_i64) == Some(0) {
        return Err(facts.error("attention.sliding_window", "attention of all layers over everything is not supported"));
    }
    // what llama.cpp takes for granted; the largest model has no norms on queries and keys
    map.insert("attention_chunk_size".into(), 8192.into());
    map.insert("floor_scale".into(), 8192.0.into());
    map.insert("attn_scale".into(), 0.1.into());
    let largest = size(map, "num_local_experts") == Some(128);
    map.insert("use_qk_norm".into(), (!largest).into());
    scaling(facts, map)
}
