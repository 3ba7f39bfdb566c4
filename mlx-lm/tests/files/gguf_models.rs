//! Toy models written as llama.cpp's converter writes them: each loads by its metadata alone and gives the logits of the
//! same model in safetensors.

use crate::gguf_archs::{Arch, NAMES, archs};
use crate::gguf_file::{GgufFile, kv};
use crate::goldens::{self, Stored};
use mlx::{Array, Dtype};
use mlx_lm::Model;
use serde_json::{Value, json};
use std::path::Path;

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
        // null is minus infinity
        Value::Array(a) if a.iter().any(|n| n.is_null() || n.is_f64()) => {
            let float = |n: &Value| n.as_f64().map_or(f32::NEG_INFINITY, |n| n as f32);
            Some(kv::array(6, a.len() as u64, a.iter().flat_map(|n| float(n).to_le_bytes()).collect()))
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
    if config["rope_parameters"]["full_attention"]["rope_type"] == "proportional" {
        let (n, share) = (config["global_head_dim"].as_u64().unwrap_or(32) as usize / 2, 0.25);
        let freqs: Vec<f32> = (0..n).map(|i| if i < (n as f64 * share) as usize { 1.0 } else { 1e30 }).collect();
        f.f32s("rope_freqs.weight", &[n], &freqs);
    }
    for t in tensors {
        if !stacked(&mut f, tensors, t) {
            write(&mut f, arch, config, t);
        }
    }
    f.bytes()
}

/// Tensors that the converter makes one of several of: written with the first of them.
fn stacked(f: &mut GgufFile, tensors: &[Stored], t: &Stored) -> bool {
    let find = |name: &str| tensors.iter().find(|t| t.name == name).unwrap();
    for (from, to) in [("altup_projections", "altup_proj"), ("altup_unembed_projections", "altup_unembd_proj")] {
        let Some(rest) = t.name.strip_prefix(&format!("model.{from}.")) else { continue };
        if rest == "0.weight" {
            let all: Vec<f32> = (0..3).flat_map(|i| floats(find(&format!("model.{from}.{i}.weight")))).collect();
            f.f32s(&format!("{to}.weight"), &[3, t.shape[0] as usize, t.shape[1] as usize], &all);
        }
        return true;
    }
    // gate and up of each expert, one after the other
    if let Some(layer) = t.name.strip_suffix(".experts.switch_glu.gate_proj.weight") {
        let (gate, up) = (floats(t), floats(find(&format!("{layer}.experts.switch_glu.up_proj.weight"))));
        let [experts, rows, width] = [0, 1, 2].map(|i| t.shape[i] as usize);
        let one = rows * width;
        let all: Vec<f32> =
            (0..experts).flat_map(|e| [&gate[e * one..(e + 1) * one], &up[e * one..(e + 1) * one]].concat()).collect();
        let n = layer.rsplit('.').next().unwrap();
        f.f32s(&format!("blk.{n}.ffn_gate_up_exps.weight"), &[experts, 2 * rows, width], &all);
        return true;
    }
    t.name.ends_with(".experts.switch_glu.up_proj.weight")
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
        "altup.correct_output_scale" => return part("altup_correct_scale.weight", &shape, &values),
        "layer_scalar" => return part("layer_output_scale.weight", &shape, &values),
        "router.scale" => return part("ffn_gate_inp.scale", &shape, &values),
        "router.per_expert_scale" => return part("ffn_down_exps.scale", &shape, &values),
        "linear_attn.dt_bias" => return part("ssm_dt.bias", &shape, &values),
        "linear_attn.A_log" => {
            let a: Vec<f32> = values.iter().map(|v| -v.exp()).collect();
            return part("ssm_a", &shape, &a);
        }
        "linear_attn.in_proj_qkvz.weight" => {
            // per key head: q, k and the values and gates of its value heads; in the file all q, all k, all v; all z
            let n = |key: &str| config[key].as_u64().unwrap() as usize;
            let (heads, d) = (n("linear_num_key_heads"), n("linear_key_head_dim"));
            let own = n("linear_num_value_heads") / heads * n("linear_value_head_dim");
            let rows = |at: usize, n: usize| {
                (0..heads)
                    .flat_map(|h| {
                        let from = (h * (2 * d + 2 * own) + at) * width;
                        values[from..from + n * width].to_vec()
                    })
                    .collect::<Vec<f32>>()
            };
            let qkv = [rows(0, d), rows(d, d), rows(2 * d, own)].concat();
            part("attn_qkv.weight", &[qkv.len() / width, width], &qkv);
            let z = rows(2 * d + own, own);
            return part("attn_gate.weight", &[z.len() / width, width], &z);
        }
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
        if let Some(own) = t.name.strip_prefix("model.language_model.") {
            t.name = format!("model.{own}");
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
