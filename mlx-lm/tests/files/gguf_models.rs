//! Toy models written as llama.cpp's converter writes them: each loads by its metadata alone and gives the logits of the
//! same model in safetensors.

use crate::gguf_file::{GgufFile, kv};
use crate::goldens::{self, Stored};
use mlx::{Array, Dtype};
use mlx_lm::Model;
use serde_json::{Value, json};
use std::path::Path;

/// One architecture.
struct Arch {
    /// `general.architecture`.
    name: &'static str,
    /// The recorded toy model.
    case: &'static str,
    /// Changes of its config; null removes a key. What a GGUF cannot say must be what llama.cpp takes for granted.
    config: Value,
    /// Metadata below the architecture's name, beside what every model has.
    keys: Value,
    /// Names that are not those of most models.
    names: &'static [(&'static str, &'static str)],
    permuted: bool,
    plus_one: bool,
}

impl Arch {
    fn new(name: &'static str, case: &'static str) -> Self {
        Arch { name, case, config: json!({}), keys: json!({}), names: &[], permuted: false, plus_one: false }
    }
}

/// Hugging Face names to GGUF names, without `.weight` and `.bias`.
const NAMES: [(&str, &str); 34] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.switch_mlp.gate_proj", "ffn_gate_exps"),
    ("mlp.switch_mlp.up_proj", "ffn_up_exps"),
    ("mlp.switch_mlp.down_proj", "ffn_down_exps"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("block_sparse_moe.router.layer", "ffn_gate_inp"),
    ("block_sparse_moe.switch_mlp.gate_proj", "ffn_gate_exps"),
    ("block_sparse_moe.switch_mlp.up_proj", "ffn_up_exps"),
    ("block_sparse_moe.switch_mlp.down_proj", "ffn_down_exps"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("mlp.gate_up_proj", "ffn_up"),
];
const SANDWICH: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
const LFM2: &[(&str, &str)] = &[
    ("model.embedding_norm", "token_embd_norm"),
    ("operator_norm", "attn_norm"),
    ("ffn_norm", "ffn_norm"),
    ("self_attn.out_proj", "attn_output"),
    ("self_attn.q_layernorm", "attn_q_norm"),
    ("self_attn.k_layernorm", "attn_k_norm"),
    ("conv.conv", "shortconv.conv"),
    ("conv.in_proj", "shortconv.in_proj"),
    ("conv.out_proj", "shortconv.out_proj"),
    ("feed_forward.w1", "ffn_gate"),
    ("feed_forward.w3", "ffn_up"),
    ("feed_forward.w2", "ffn_down"),
    ("feed_forward.gate_proj", "ffn_gate"),
    ("feed_forward.up_proj", "ffn_up"),
    ("feed_forward.down_proj", "ffn_down"),
    ("feed_forward.gate", "ffn_gate_inp"),
    ("feed_forward.switch_mlp.gate_proj", "ffn_gate_exps"),
    ("feed_forward.switch_mlp.up_proj", "ffn_up_exps"),
    ("feed_forward.switch_mlp.down_proj", "ffn_down_exps"),
];
const PHI2: &[(&str, &str)] = &[
    ("model.final_layernorm", "output_norm"),
    ("self_attn.dense", "attn_output"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
];
const GPT_OSS: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("mlp.router", "ffn_gate_inp"),
    ("mlp.experts.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
];
const MLA: &[(&str, &str)] = &[
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
    ("self_attn.embed_q", "attn_k_b"),
    ("self_attn.unembed_out", "attn_v_b"),
];
const GRANITE_HYBRID: &[(&str, &str)] = &[
    ("shared_mlp.output_linear", "ffn_down_shexp"),
    ("mamba.in_proj", "ssm_in"),
    ("mamba.conv1d", "ssm_conv1d"),
    ("mamba.norm", "ssm_norm"),
    ("mamba.out_proj", "ssm_out"),
];

/// Magnitudes of longrope's sides where both are what the converter computes.
const LONG: f64 = 1.843_908_891_458_577_5;

fn archs() -> Vec<Arch> {
    let a = Arch::new;
    let yarn = json!({"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 32,
                      "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0});
    let multipliers =
        json!({"attention.scale": 0.2, "embedding_scale": 0.8, "residual_scale": 0.6, "logit_scale": 4.0});
    let with = |a: &Value, b: Value| {
        let mut all = a.as_object().unwrap().clone();
        all.extend(b.as_object().unwrap().clone());
        Value::Object(all)
    };
    let mla = json!({
        "leading_dense_block_count": 1, "expert_shared_count": 1, "expert_weights_scale": 2.5, "expert_group_count": 4,
        "expert_group_used_count": 2, "attention.q_lora_rank": 32, "attention.kv_lora_rank": 32,
        "attention.key_length": 48, "attention.value_length": 32, "attention.key_length_mla": 48,
        "attention.value_length_mla": 32, "attention.head_count_kv": 1, "rope.dimension_count": 16,
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
        "rope.scaling.yarn_log_multiplier": 0.1,
    });
    let conv = json!({"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3, "leading_dense_block_count": 1});
    vec![
        Arch { permuted: true, ..a("llama", "llama") },
        Arch { permuted: true, ..a("llama", "mixtral") },
        Arch {
            permuted: true,
            config: json!({"layer_types": null, "sliding_window": null}),
            keys: json!({"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 16,
                         "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0,
                         "rope.scaling.yarn_log_multiplier": 0.1, "attention.temperature_scale": 0.1}),
            ..a("mistral3", "ministral3")
        },
        a("qwen2", "qwen2"),
        Arch {
            config: json!({"model_type": "qwen2"}),
            keys: json!({"rope.dimension_sections": [2, 3, 3, 0]}),
            ..a("qwen2vl", "qwen2_vl")
        },
        a("qwen2moe", "qwen2_moe"),
        a("qwen3", "qwen3"),
        Arch {
            keys: json!({"rope.dimension_sections": [3, 3, 2, 0], "n_deepstack_layers": 3}),
            ..a("qwen3vl", "qwen3_vl")
        },
        a("qwen3moe", "qwen3_vl_moe"),
        Arch { keys: json!({"n_deepstack_layers": 3}), ..a("qwen3vlmoe", "qwen3_vl_moe") },
        Arch { plus_one: true, ..a("gemma", "gemma") },
        Arch {
            plus_one: true,
            names: SANDWICH,
            config: json!({"query_pre_attn_scalar": 16.0}),
            keys: json!({"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 4096}),
            ..a("gemma2", "gemma2")
        },
        Arch { plus_one: true, names: SANDWICH, ..a("gemma3", "gemma3_text") },
        Arch { names: PHI2, keys: json!({"rope.dimension_count": 6}), ..a("phi2", "phi") },
        Arch {
            keys: json!({"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": LONG}),
            ..a("phi3", "phi3")
        },
        Arch {
            config: json!({"rope_scaling": {
                "type": "longrope", "original_max_position_embeddings": 32, "long_mscale": LONG, "short_mscale": LONG,
                "short_factor": [1.0, 1.02, 1.04, 1.06, 1.08, 1.1, 1.12, 1.14], "long_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
            }}),
            keys: json!({"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": LONG}),
            ..a("phimoe", "phimoe")
        },
        Arch {
            permuted: true,
            keys: json!({"leading_dense_block_count": 1, "expert_shared_count": 1, "expert_weights_scale": 1.0}),
            ..a("deepseek", "deepseek")
        },
        Arch {
            names: MLA,
            keys: with(&mla, json!({"expert_weights_norm": false, "expert_gating_func": 1})),
            ..a("deepseek2", "deepseek_v2")
        },
        Arch {
            names: MLA,
            keys: with(&mla, json!({"expert_weights_norm": true, "expert_gating_func": 2})),
            ..a("deepseek2", "deepseek_v3")
        },
        Arch { names: LFM2, keys: conv.clone(), ..a("lfm2", "lfm2") },
        Arch { names: LFM2, keys: with(&conv, json!({"expert_gating_func": 2})), ..a("lfm2moe", "lfm2_moe") },
        Arch { permuted: true, keys: multipliers.clone(), ..a("granite", "granite") },
        Arch { permuted: true, keys: multipliers.clone(), ..a("granitemoe", "granitemoe") },
        Arch {
            permuted: true,
            names: GRANITE_HYBRID,
            config: json!({"mamba_n_groups": 1}),
            keys: with(
                &multipliers,
                json!({
                    "attention.head_count_kv": [0, 2, 0, 2], "ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.group_count": 1,
                    "ssm.inner_size": 128, "ssm.time_step_rank": 8, "rope.scaling.finetuned": false,
                    "expert_shared_feed_forward_length": 64,
                }),
            ),
            ..a("granitehybrid", "granitemoehybrid")
        },
        Arch { permuted: true, ..a("olmo", "olmo") },
        Arch { names: SANDWICH, ..a("olmo2", "olmo2") },
        Arch {
            names: SANDWICH,
            keys: with(&yarn, json!({"attention.sliding_window_pattern": [true, true, true, false]})),
            ..a("olmo2", "olmo3")
        },
        a("olmoe", "olmoe"),
        Arch { permuted: true, ..a("smollm3", "smollm3") },
        a("starcoder2", "starcoder2"),
        a("command-r", "cohere"),
        Arch { names: GPT_OSS, keys: yarn, ..a("gpt-oss", "gpt_oss") },
    ]
}

/// Keys that most models have, from their config.
const KEYS: [(&str, &str); 22] = [
    ("num_hidden_layers", "block_count"),
    ("n_layers", "block_count"),
    ("hidden_size", "embedding_length"),
    ("d_model", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("n_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("norm_eps", "attention.layer_norm_rms_epsilon"),
    ("layer_norm_eps", "attention.layer_norm_epsilon"),
    ("norm_epsilon", "attention.layer_norm_epsilon"),
    ("max_position_embeddings", "context_length"),
    ("rope_theta", "rope.freq_base"),
    ("sliding_window", "attention.sliding_window"),
    ("num_experts", "expert_count"),
    ("num_local_experts", "expert_count"),
    ("n_routed_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
];

/// As the converter types a value; floats of the config may be whole numbers.
fn value(key: &str, v: &Value) -> Option<(u32, Vec<u8>)> {
    let float = ["eps", "theta", "freq_base", "scale", "factor", "softcapping", "multiplier", "beta"];
    match v {
        Value::Number(n) if float.iter().any(|f| key.contains(f)) => Some(kv::f32(n.as_f64().unwrap() as f32)),
        Value::Number(n) if n.is_u64() => Some(kv::u32(n.as_u64().unwrap() as u32)),
        Value::Number(n) => Some(kv::f32(n.as_f64().unwrap() as f32)),
        Value::String(s) => Some(kv::string(s)),
        Value::Bool(b) => Some((7, vec![u8::from(*b)])),
        Value::Array(a) if a.iter().all(Value::is_boolean) => {
            Some(kv::array(7, a.len() as u64, a.iter().map(|b| u8::from(b.as_bool().unwrap())).collect()))
        }
        Value::Array(a) => Some(kv::array(
            5,
            a.len() as u64,
            a.iter().flat_map(|n| (n.as_i64().unwrap() as i32).to_le_bytes()).collect(),
        )),
        _ => None,
    }
}

fn floats(t: &Stored) -> Vec<f32> {
    t.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Rows of each head: halves become pairs.
fn permute(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, d) = (values.len() / rows, rows / heads);
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        let (head, a, b) = (row / d, row % d / (d / 2), row % (d / 2));
        let to = head * d + 2 * b + a;
        out[to * width..(to + 1) * width].copy_from_slice(&values[row * width..(row + 1) * width]);
    }
    out
}

/// The file as the converter would write it.
fn gguf(arch: &Arch, config: &Value, tensors: &[Stored]) -> Vec<u8> {
    let mut f = GgufFile::new(arch.name);
    let own = arch.keys.as_object().unwrap();
    let put = |f: &mut GgufFile, key: &str, v: &Value| {
        if let Some(v) = value(key, v) {
            f.kv(&format!("{}.{key}", arch.name), v);
        }
    };
    let inner = tensors.iter().find(|t| t.name.ends_with("feed_forward.w1.weight")).map(|t| json!(t.shape[0]));
    let olmo = config["mlp_hidden_size"].as_u64().map(|n| json!(n / 2));
    for (from, to) in KEYS {
        let special = if to == "feed_forward_length" { inner.as_ref() } else { None };
        let v = special.unwrap_or(&config[from]);
        if !own.contains_key(to) {
            put(&mut f, to, v);
        }
    }
    if let Some(n) = olmo {
        put(&mut f, "feed_forward_length", &n);
        put(&mut f, "rope.freq_base", &json!(10000.0));
        put(&mut f, "attention.layer_norm_epsilon", &json!(1e-5));
    }
    if let Some(base) = config.get("rope_local_base_freq") {
        put(&mut f, "rope.local.freq_base", base);
    }
    if let Some(scale) = config.get("logit_scale") {
        put(&mut f, "logit_scale", scale);
    }
    if let Some(theta) = config["rope_parameters"].get("rope_theta") {
        put(&mut f, "rope.freq_base", theta);
    }
    own.iter().for_each(|(key, v)| put(&mut f, key, v));
    for (side, key) in [("long", "long_factor"), ("short", "short_factor")] {
        if let Some(factors) = config["rope_scaling"][key].as_array() {
            let factors: Vec<f32> = factors.iter().map(|f| f.as_f64().unwrap() as f32).collect();
            f.f32s(&format!("rope_factors_{side}.weight"), &[factors.len()], &factors);
        }
    }
    for t in tensors {
        write(&mut f, arch, config, t);
    }
    f.bytes()
}

/// One tensor, or the parts that the converter makes of it.
fn write(f: &mut GgufFile, arch: &Arch, config: &Value, t: &Stored) {
    let layer = ["model.layers.", "model.transformer.blocks."].iter().find_map(|p| t.name.strip_prefix(p));
    let (prefix, name) = match layer.and_then(|rest| rest.split_once('.')) {
        Some((n, rest)) => (format!("blk.{n}."), rest),
        None => (String::new(), &t.name[..]),
    };
    let mut shape: Vec<usize> = t.shape.iter().map(|&d| d as usize).collect();
    let mut values = floats(t);
    let heads =
        |key: &str| config[key].as_u64().or(config["num_attention_heads"].as_u64()).or(config["n_heads"].as_u64());
    let (q, k) = (heads("num_attention_heads").unwrap() as usize, heads("num_key_value_heads").unwrap() as usize);
    let width = shape.last().copied().unwrap_or(1);
    let mut part = |name: &str, shape: &[usize], values: &[f32]| {
        f.f32s(&format!("{prefix}{name}"), shape, values);
    };
    match name {
        "self_attn.sinks" => return part("attn_sinks.weight", &shape, &values),
        "mlp.gate.e_score_correction_bias" | "feed_forward.expert_bias" => {
            return part("exp_probs_b.bias", &shape, &values);
        }
        "mlp.shared_expert_gate.weight" => return part("ffn_gate_inp_shexp.weight", &[width], &values),
        "mamba.A_log" => {
            let a: Vec<f32> = values.iter().map(|v| -v.exp()).collect();
            return part("ssm_a", &[a.len(), 1], &a);
        }
        "mamba.D" => return part("ssm_d", &[shape[0], 1], &values),
        "mamba.dt_bias" => return part("ssm_dt.bias", &shape, &values),
        "mamba.norm.weight" => return part("ssm_norm.weight", &[1, shape[0]], &values),
        "shared_mlp.input_linear.weight" => {
            let half = shape[0] / 2;
            part("ffn_gate_shexp.weight", &[half, width], &values[..half * width]);
            return part("ffn_up_shexp.weight", &[half, width], &values[half * width..]);
        }
        "model.transformer.wte.weight" => return part("token_embd.weight", &shape, &values),
        "model.transformer.ff_out.weight" => return part("output.weight", &shape, &values),
        "attn_out.weight" => return part("attn_output.weight", &shape, &values),
        "ff_out.weight" => return part("ffn_down.weight", &shape, &values),
        "att_proj.weight" => {
            let rows = shape[0] / 3;
            for (i, name) in ["attn_q.weight", "attn_k.weight", "attn_v.weight"].into_iter().enumerate() {
                let own = &values[i * rows * width..(i + 1) * rows * width];
                let own = if i < 2 { permute(own, rows, q) } else { own.to_vec() };
                part(name, &[rows, width], &own);
            }
            return;
        }
        "ff_proj.weight" => {
            let half = shape[0] / 2;
            part("ffn_up.weight", &[half, width], &values[..half * width]);
            return part("ffn_gate.weight", &[half, width], &values[half * width..]);
        }
        "self_attn.kv_b_proj.weight" => {
            // per head: the keys' rows, transposed, and the values'
            let (nope, v) = (
                config["qk_nope_head_dim"].as_u64().unwrap() as usize,
                config["v_head_dim"].as_u64().unwrap() as usize,
            );
            let (mut keys, mut vals) = (Vec::new(), Vec::new());
            for head in values.chunks_exact((nope + v) * width) {
                keys.extend((0..width).flat_map(|r| (0..nope).map(move |i| head[i * width + r])));
                vals.extend_from_slice(&head[nope * width..]);
            }
            part("attn_k_b.weight", &[q, width, nope], &keys);
            return part("attn_v_b.weight", &[q, v, width], &vals);
        }
        _ => {}
    }
    let (stem, suffix) = name.rsplit_once('.').unwrap();
    let target = arch.names.iter().chain(&NAMES).find(|(from, _)| *from == stem);
    let target = target.unwrap_or_else(|| panic!("{}: {name} has no GGUF name", arch.name)).1;
    if arch.permuted && ["attn_q", "attn_k"].contains(&target) {
        values = permute(&values, shape[0], if target == "attn_q" { q } else { k });
    }
    if arch.plus_one && stem.ends_with("norm") {
        values.iter_mut().for_each(|v| *v += 1.0);
    }
    if ["shortconv.conv", "ssm_conv1d"].contains(&target) && suffix == "weight" {
        shape.pop();
    }
    part(&format!("{target}.{suffix}"), &shape, &values);
}

/// The text model's config with changes, and its tensors without the wrapper's prefix.
fn toy(arch: &Arch) -> (Value, Vec<Stored>, Vec<i32>) {
    let mut c = goldens::all("families").into_iter().find(|c| c["case"] == arch.case).unwrap();
    if arch.name == "granitehybrid" {
        // one group in place of two: 32 rows less
        for row in c["tensors"].as_array_mut().unwrap() {
            if ["in_proj.weight", "conv1d.weight", "conv1d.bias"].iter().any(|e| row[0].as_str().unwrap().ends_with(e))
            {
                row[1][0] = json!(row[1][0].as_u64().unwrap() - 32);
            }
        }
    }
    let mut tensors = goldens::tensors(&c);
    for t in &mut tensors {
        if let Some(own) = t.name.strip_prefix("language_model.") {
            t.name = own.to_owned();
        }
    }
    let mut config = match &c["config"]["text_config"] {
        Value::Object(text) => Value::Object(text.clone()),
        _ => c["config"].clone(),
    };
    for (key, v) in arch.config.as_object().unwrap() {
        match v {
            Value::Null => drop(config.as_object_mut().unwrap().remove(key)),
            v => config[key] = v.clone(),
        }
    }
    (config, tensors, goldens::ints(&c["prompt"]))
}

fn logits(path: &Path, prompt: &[i32]) -> Result<Vec<f32>, String> {
    let m = Model::load(path).map_err(|e| e.to_string())?;
    let ids = Array::from_slice(prompt, [1, prompt.len() as i32]);
    let mut caches = m.decoder.caches().map_err(|e| e.to_string())?;
    m.decoder.forward(&ids, &mut caches).astype(Dtype::Float32).to_vec::<f32>().map_err(|e| e.to_string())
}

#[test]
fn every_architecture_gives_the_logits_of_its_safetensors() {
    let mut wrong = Vec::new();
    for arch in archs() {
        let (config, tensors, prompt) = toy(&arch);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.gguf");
        std::fs::write(&file, gguf(&arch, &config, &tensors)).unwrap();
        let name = format!("{} ({})", arch.name, arch.case);
        let got = match logits(&file, &prompt) {
            Ok(got) => got,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        std::fs::remove_file(file).unwrap();
        goldens::write(dir.path(), &config, &tensors);
        let want = logits(dir.path(), &prompt).unwrap();
        let largest = want.iter().filter(|w| w.is_finite()).fold(0.0f32, |m, w| m.max(w.abs()));
        let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if got.len() != want.len() || off.is_nan() || off > 2e-5 * largest {
            wrong.push(format!("{name}: {} and {} logits, off by {off} of {largest}", got.len(), want.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
