//! GGUF metadata → a Hugging Face style config: plain keys by the table of [`super::arch`], the rest here.
use serde_json::{Map, Number, Value as Json, json};

use super::arch::Arch;
use super::blocks::dequantize;
use super::parse::Gguf;
use super::value::{Array, Value, shortest};
use crate::{Error, Result};

/// What a fix may look at: metadata of one architecture and tensor shapes.
pub struct Facts<'a> {
    pub(super) parts: &'a [Gguf],
    prefix: &'a str,
}

impl<'a> Facts<'a> {
    pub(super) fn new(parts: &'a [Gguf], prefix: &'a str) -> Self {
        Facts { parts, prefix }
    }
    fn file(&self) -> &'a Gguf {
        &self.parts[0]
    }
    /// A key below the architecture's prefix.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.file().get(&format!("{}.{key}", self.prefix))
    }
    pub(super) fn error(&self, key: &str, message: &str) -> Error {
        Error::config(format!("{}.{key}", self.prefix), format!("{message} in {}", self.file().path.display()))
    }
    fn f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }
    pub(super) fn usize(&self, key: &str) -> Result<usize> {
        self.get(key).and_then(Value::as_usize).ok_or_else(|| self.error(key, "missing or not a size"))
    }
    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.parts.iter().any(|p| p.tensor(name).is_some())
    }
    pub(super) fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.parts.iter().find_map(|p| p.tensor(name)).map(|t| &t.shape[..])
    }
    /// The values of a small tensor.
    pub(super) fn values(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some((part, tensor)) = self.parts.iter().find_map(|p| Some((p, p.tensor(name)?))) else { return Ok(None) };
        if tensor.elements() > 1 << 16 {
            return Err(Error::tensor(name, "is too large for a list of rope factors"));
        }
        let mut out = vec![0.0; tensor.elements()];
        let bytes = part.bytes(tensor).ok_or_else(|| Error::tensor(name, "is outside of the file"))?;
        dequantize(tensor.ty, &bytes, &mut out).map_err(|m| Error::tensor(name, m))?;
        Ok(Some(out))
    }
}

/// The config without its `quantization`.
pub(super) fn build(facts: &Facts, arch: &Arch) -> Result<Map<String, Json>> {
    let tensors: usize = facts.parts.iter().map(|p| p.tensors.len()).sum();
    if facts.get("block_count").and_then(Value::as_usize).is_some_and(|layers| layers > tensors) {
        return Err(facts.error("block_count", "more layers than tensors"));
    }
    let mut map = Map::new();
    map.insert("model_type".into(), arch.model_type.into());
    for (from, to) in arch.keys.iter().flat_map(|rows| rows.iter()) {
        if let (Some(value), false) = (facts.get(from), map.contains_key(*to)) {
            map.insert((*to).into(), uniform(json_of(value)));
        }
    }
    let vocab = facts.shape("token_embd.weight").and_then(|s| s.first().copied());
    let vocab = vocab.ok_or_else(|| Error::tensor("token_embd.weight", "missing"))?;
    map.insert("vocab_size".into(), vocab.into());
    map.insert("tie_word_embeddings".into(), (!facts.has_tensor("output.weight")).into());
    if facts.has_tensor("blk.0.attn_q.bias") {
        map.insert("attention_bias".into(), true.into());
    }
    tokens(facts.file(), &mut map);
    if let Some(fix) = arch.fix {
        fix(facts, &mut map)?;
    } else {
        scaling(facts, &mut map)?;
    }
    Ok(map)
}

fn tokens(file: &Gguf, map: &mut Map<String, Json>) {
    let id =
        |key: &str| file.get(&format!("tokenizer.ggml.{key}_token_id")).and_then(Value::as_i64).filter(|i| *i >= 0);
    let mut eos: Vec<i64> = vec![];
    for id in ["eos", "eot", "eom"].into_iter().filter_map(id) {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    match eos[..] {
        [] => {}
        [one] => drop(map.insert("eos_token_id".into(), one.into())),
        _ => drop(map.insert("eos_token_id".into(), eos.into())),
    }
    for (key, name) in [("bos", "bos_token_id"), ("padding", "pad_token_id")] {
        if let Some(id) = id(key) {
            map.insert(name.into(), id.into());
        }
    }
}

fn json_of(v: &Value) -> Json {
    let float = |f: f64| Number::from_f64(f).map_or(Json::Null, Json::Number);
    match v {
        Value::Str(s) => s.clone().into(),
        Value::Bool(b) => (*b).into(),
        Value::U64(n) => (*n).into(),
        Value::F32(_) | Value::F64(_) => float(v.as_f64().unwrap_or(f64::NAN)),
        Value::Array(Array::I32(a)) => a.clone().into(),
        Value::Array(Array::I64(a)) => a.clone().into(),
        Value::Array(Array::Str(a)) => a.clone().into(),
        Value::Array(Array::F32(a)) => a.iter().map(|f| float(shortest(*f))).collect(),
        Value::Array(Array::F64(a)) => a.iter().map(|f| float(*f)).collect(),
        Value::Array(Array::Nested(_)) => Json::Null,
        _ => v.as_i64().map_or(Json::Null, Json::from),
    }
}

/// A per-layer list of equal values is that value.
fn uniform(v: Json) -> Json {
    match v {
        Json::Array(a) if a.windows(2).all(|p| p[0] == p[1]) && !a.is_empty() => a[0].clone(),
        v => v,
    }
}

pub(super) fn size(map: &Map<String, Json>, key: &str) -> Option<u64> {
    map.get(key)?.as_u64()
}
fn head_dim(map: &Map<String, Json>) -> Option<u64> {
    size(map, "head_dim").or(size(map, "hidden_size")?.checked_div(size(map, "num_attention_heads")?))
}

/// `rope.scaling.*`, and the factors some files carry as tensors.
pub(super) fn scaling(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    let factor = facts.f64("rope.scaling.factor").or(facts.f64("rope.scale_linear"));
    let original = facts.get("rope.scaling.original_context_length").and_then(Value::as_usize);
    let context = size(map, "max_position_embeddings");
    let kind = facts.get("rope.scaling.type").and_then(Value::as_str).unwrap_or("none");
    if let Some(freqs) = facts.values("rope_freqs.weight")? {
        // llama3 scaling, already multiplied out: one divisor per frequency. That is longrope without rescaling.
        map.insert(
            "rope_scaling".into(),
            json!({"rope_type": "longrope", "long_factor": freqs, "short_factor": freqs, "long_mscale": 1.0,
                   "short_mscale": 1.0, "original_max_position_embeddings": context.unwrap_or(8192)}),
        );
    } else if kind == "yarn" {
        let mut yarn = json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original});
        if let (Some(log), Json::Object(yarn)) = (facts.f64("rope.scaling.yarn_log_multiplier"), &mut yarn) {
            yarn.insert("mscale".into(), (log * 10.0).into());
            yarn.insert("mscale_all_dim".into(), (log * 10.0).into());
        }
        for (from, to) in [("rope.scaling.yarn_beta_fast", "beta_fast"), ("rope.scaling.yarn_beta_slow", "beta_slow")] {
            if let (Some(v), Json::Object(yarn)) = (facts.f64(from), &mut yarn) {
                yarn.insert(to.into(), v.into());
            }
        }
        map.insert("rope_scaling".into(), yarn);
    } else if let Some(factor) = factor.filter(|f| kind == "linear" && *f != 1.0 && *f != 0.0) {
        map.insert("rope_scaling".into(), json!({"rope_type": "linear", "factor": factor}));
    }
    Ok(())
}

pub(super) fn llama(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    if facts.has_tensor("blk.0.ffn_gate.bias") {
        map.insert("mlp_bias".into(), true.into());
    }
    scaling(facts, map)
}

pub(super) fn ministral3(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    scaling(facts, map)?;
    let Some(Json::Object(mut rope)) = map.remove("rope_scaling") else {
        return Err(facts.error("rope.scaling.type", "missing"));
    };
    rope.insert("rope_theta".into(), map.get("rope_theta").cloned().unwrap_or(Json::Null));
    rope.insert("llama_4_scaling_beta".into(), facts.f64("attention.temperature_scale").unwrap_or(0.0).into());
    map.insert("rope_parameters".into(), Json::Object(rope));
    Ok(())
}

pub(super) fn smollm3(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    map.insert("no_rope_layer_interval".into(), 4.into());
    scaling(facts, map)
}

pub(super) fn qwen3_moe(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    map.insert("decoder_sparse_step".into(), 1.into());
    map.insert("mlp_only_layers".into(), json!([]));
    map.insert("norm_topk_prob".into(), true.into());
    scaling(facts, map)
}

pub(super) fn gemma(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    if let Some(d) = head_dim(map) {
        map.insert("head_dim".into(), d.into());
    }
    map.insert("hidden_activation".into(), "gelu_pytorch_tanh".into());
    scaling(facts, map)
}

pub(super) fn gemma2(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    gemma(facts, map)?;
    query_scale(map, 46);
    Ok(())
}

/// gemma3 files may lack keys that llama.cpp takes for granted.
pub(super) fn gemma3(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    gemma(facts, map)?;
    query_scale(map, 62);
    map.entry("rope_theta").or_insert(1e6.into());
    map.entry("rope_local_base_freq").or_insert(1e4.into());
    map.insert("sliding_window_pattern".into(), 6.into());
    Ok(())
}

/// The query scale's square inverse: head_dim, but hidden / heads in the 27B models, known by their depth.
fn query_scale(map: &mut Map<String, Json>, depth_27b: u64) {
    let wide = size(map, "num_hidden_layers") == Some(depth_27b);
    let per_head = size(map, "hidden_size").zip(size(map, "num_attention_heads")).and_then(|(h, n)| h.checked_div(n));
    if let Some(scalar) = if wide { per_head } else { head_dim(map) } {
        map.insert("query_pre_attn_scalar".into(), scalar.into());
    }
}

/// `rope.dimension_count` against the head.
pub(super) fn partial_rotary(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    if let (Some(rotary), Some(head)) = (facts.f64("rope.dimension_count"), head_dim(map))
        && head > 0
        && rotary < head as f64
    {
        map.insert("partial_rotary_factor".into(), (rotary / head as f64).into());
    }
    scaling(facts, map)
}

pub(super) fn phi3(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    partial_rotary(facts, map)?;
    let original = facts.get("rope.scaling.original_context_length").and_then(Value::as_usize);
    if let (Some(long), Some(short)) =
        (facts.values("rope_factors_long.weight")?, facts.values("rope_factors_short.weight")?)
    {
        let original = original.ok_or_else(|| facts.error("rope.scaling.original_context_length", "missing"))?;
        map.insert("original_max_position_embeddings".into(), original.into());
        let mut rope = json!({"type": "longrope", "long_factor": long, "short_factor": short, "original_max_position_embeddings": original});
        if let (Some(m), Json::Object(rope)) = (facts.f64("rope.scaling.attn_factor"), &mut rope) {
            rope.insert("long_mscale".into(), m.into());
            rope.insert("short_mscale".into(), m.into());
        }
        map.insert("rope_scaling".into(), rope);
    }
    Ok(())
}

pub(super) fn deepseek(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    let sigmoid = facts.get("expert_gating_func").and_then(Value::as_i64) == Some(2);
    let biased = facts.parts.iter().flat_map(|p| &p.tensors).any(|t| t.name.ends_with("exp_probs_b.bias"));
    let key = match facts.get("attention.key_length_mla") {
        Some(_) => facts.usize("attention.key_length_mla")?,
        None => facts.usize("attention.key_length")?,
    };
    let rotary = facts.usize("rope.dimension_count")?;
    let nope =
        key.checked_sub(rotary).ok_or_else(|| facts.error("attention.key_length", "is below rope.dimension_count"))?;
    map.insert("qk_nope_head_dim".into(), nope.into());
    map.remove("head_dim");
    let heads = map.get("num_attention_heads").cloned().unwrap_or(Json::Null);
    map.insert("num_key_value_heads".into(), heads);
    if sigmoid || biased {
        // the first conversions of V3 (256 experts) had no group keys
        let known = size(map, "n_routed_experts") == Some(256);
        map.entry("n_group").or_insert(if known { 8 } else { 1 }.into());
        map.entry("topk_group").or_insert(if known { 4 } else { 1 }.into());
        map.insert("topk_method".into(), "noaux_tc".into());
        map.insert("scoring_func".into(), "sigmoid".into());
    } else {
        map.insert("model_type".into(), "deepseek_v2".into());
        let grouped = size(map, "n_group").is_some_and(|n| n > 1);
        map.insert("topk_method".into(), if grouped { "group_limited_greedy" } else { "greedy" }.into());
    }
    scaling(facts, map)
}

pub(super) fn lfm2(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    let layers = facts.usize("block_count")?;
    let listed = facts.get("attention.head_count_kv").and_then(Value::to_i64s);
    let attends = |i| facts.has_tensor(&format!("blk.{i}.attn_q.weight")).into();
    let kv: Vec<i64> = listed.unwrap_or_else(|| (0..layers).map(attends).collect());
    let types: Vec<&str> = kv.iter().map(|n| if *n > 0 { "full_attention" } else { "conv" }).collect();
    let full: Vec<usize> = kv.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, _)| i).collect();
    if map.get("num_key_value_heads").is_none_or(Json::is_array) {
        map.insert("num_key_value_heads".into(), kv.iter().max().copied().unwrap_or(0).into());
    }
    map.insert("layer_types".into(), types.into());
    map.insert("full_attn_idxs".into(), full.into());
    map.insert(
        "conv_bias".into(),
        facts.parts.iter().flat_map(|p| &p.tensors).any(|t| t.name.ends_with("shortconv.conv.bias")).into(),
    );
    for (key, from) in [("block_dim", "hidden_size"), ("block_ff_dim", "intermediate_size")] {
        let value = map.get(from).cloned().unwrap_or(Json::Null);
        map.insert(key.into(), value);
    }
    // the file's feed_forward_length is the adjusted one
    map.insert("block_auto_adjust_ff_dim".into(), false.into());
    map.insert("block_multiple_of".into(), 256.into());
    map.insert("block_ffn_dim_multiplier".into(), 1.0.into());
    map.insert("norm_topk_prob".into(), true.into());
    map.insert(
        "use_expert_bias".into(),
        facts.parts.iter().flat_map(|p| &p.tensors).any(|t| t.name.ends_with("exp_probs_b.bias")).into(),
    );
    scaling(facts, map)
}

/// Granite's multipliers are 1 where the file leaves them out; the attention scale is then the usual one.
pub(super) fn granite(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    for key in ["embedding_multiplier", "residual_multiplier", "logits_scaling"] {
        map.entry(key).or_insert(1.0.into());
    }
    if let Some(d) = head_dim(map) {
        map.entry("attention_multiplier").or_insert((d as f64).powf(-0.5).into());
    }
    for key in ["attention_bias", "mlp_bias"] {
        map.entry(key).or_insert(false.into());
    }
    scaling(facts, map)
}

pub(super) fn olmo(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    if facts.get("attention.clamp_kqv").is_some() {
        return Err(facts.error("attention.clamp_kqv", "clamped q, k, v are not supported"));
    }
    map.insert("mlp_hidden_size".into(), (2 * facts.usize("feed_forward_length")?).into());
    let vocab = map.get("vocab_size").cloned().unwrap_or(Json::Null);
    map.insert("embedding_size".into(), vocab);
    let tied = map.get("tie_word_embeddings").cloned().unwrap_or(Json::Null);
    map.insert("weight_tying".into(), tied);
    Ok(())
}

/// A window makes olmo2 olmo3.
pub(super) fn olmo2(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    if map.contains_key("sliding_window") {
        map.insert("model_type".into(), "olmo3".into());
        if let Some(pattern) = facts.get("attention.sliding_window_pattern").and_then(Value::to_i64s) {
            let kind = |slides: &i64| if *slides != 0 { "sliding_attention" } else { "full_attention" };
            map.insert("layer_types".into(), pattern.iter().map(kind).collect::<Vec<_>>().into());
        }
    }
    scaling(facts, map)
}

/// The first DeepSeek models: a plain softmax over all experts.
pub(super) fn deepseek1(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    for key in ["qk_rope_head_dim", "v_head_dim"] {
        map.remove(key);
    }
    if map.remove("norm_topk_prob").is_some_and(|v| v == true) {
        return Err(facts.error("expert_weights_norm", "normalised weights are not supported"));
    }
    if map.remove("routed_scaling_factor").and_then(|v| v.as_f64()).is_some_and(|f| f != 1.0) {
        return Err(facts.error("expert_weights_scale", "another factor than 1 is not supported"));
    }
    scaling(facts, map)
}

/// Layers without KV heads are mamba layers; rotations are only where the file says so.
pub(super) fn granite_hybrid(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    granite(facts, map)?;
    let layers = facts.usize("block_count")?;
    let kv = match facts.get("attention.head_count_kv") {
        Some(v) => v.to_i64s().unwrap_or_else(|| vec![v.as_i64().unwrap_or(0); layers]),
        None => return Err(facts.error("attention.head_count_kv", "missing")),
    };
    let kind = |n: &i64| if *n > 0 { "attention" } else { "mamba" };
    map.insert("layer_types".into(), kv.iter().map(kind).collect::<Vec<_>>().into());
    map.insert("num_key_value_heads".into(), kv.iter().max().copied().unwrap_or(0).into());
    let turns = facts.get("rope.scaling.finetuned").and_then(Value::as_bool).unwrap_or(false);
    map.insert("position_embedding_type".into(), if turns { "rope" } else { "nope" }.into());
    if let (Some(inner), Some(heads)) = (facts.f64("ssm.inner_size"), facts.f64("ssm.time_step_rank")) {
        map.insert("mamba_d_head".into(), ((inner / heads.max(1.0)) as u64).into());
    }
    let tensors = || facts.parts.iter().flat_map(|p| &p.tensors);
    map.insert("mamba_conv_bias".into(), tensors().any(|t| t.name.ends_with("ssm_conv1d.bias")).into());
    map.insert("mamba_proj_bias".into(), tensors().any(|t| t.name.ends_with("ssm_in.bias")).into());
    Ok(())
}

pub(super) fn cohere(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    map.insert("use_qk_norm".into(), facts.has_tensor("blk.0.attn_q_norm.weight").into());
    scaling(facts, map)
}

pub(super) fn gpt_oss(facts: &Facts, map: &mut Map<String, Json>) -> Result<()> {
    if let Some(ff) = facts.get("expert_feed_forward_length") {
        map.insert("intermediate_size".into(), json_of(ff));
    }
    let layers = facts.usize("block_count")?;
    let types: Vec<&str> =
        (0..layers).map(|i| if i % 2 == 0 { "sliding_attention" } else { "full_attention" }).collect();
    map.insert("layer_types".into(), types.into());
    scaling(facts, map)
}
