//! Decoders on the default device, a CUDA card or the CPU: steps of one token (fused layers, in-place caches) against whole
//! passes without a cache (plain ops).

use mlx::{self as mx, Array, Dtype};
use mlx_lm::Model;
use mlx_lm::cache::Caches;
use mlx_lm::config::{Config, QuantConfig, QuantParams};
use serde_json::{Value, json};

/// Whether there is a card; without one everything runs on the CPU.
fn card() -> bool {
    mx::cuda_is_available()
}

fn config(extra: Value) -> Config {
    let mut c = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 448, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 500, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "max_position_embeddings": 4096,
    });
    c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Config::from_json(c, "config.json").unwrap()
}

fn models() -> Vec<(&'static str, Config, Option<usize>)> {
    let llama3 = json!({ "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 } });
    // all experts: with random weights, rounding decides between the last one chosen and the first one left out
    let moe = json!({ "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 8,
        "moe_intermediate_size": 96, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [] });
    let gemma3 = json!({ "model_type": "gemma3_text", "sliding_window": 16, "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 64, "rope_local_base_freq": 1000.0, "rope_theta": 10000.0 });
    vec![
        ("llama", config(json!({})), None),
        ("llama, 4 bits", config(json!({})), Some(4)),
        ("llama, 8 bits, tied", config(json!({ "tie_word_embeddings": true })), Some(8)),
        ("llama3 rope, 3 bits", config(llama3), Some(3)),
        ("qwen2", config(json!({ "model_type": "qwen2" })), None),
        ("qwen3, 128 wide heads", config(json!({ "model_type": "qwen3", "head_dim": 128 })), None),
        ("qwen3_moe, 4 bits", config(moe), Some(4)),
        // norms around sublayers; a ring of 16 tokens that wraps around
        ("gemma3", config(gemma3.clone()), None),
        ("gemma3, 4 bits", config(gemma3), Some(4)),
    ]
}

fn load(c: &Config, bits: Option<usize>) -> Model {
    // gemma's sandwich norms make more of bf16's rounding than the others do
    load_as(c, bits, if c.model_type().starts_with("gemma") { Dtype::Float16 } else { Dtype::Bfloat16 })
}

fn load_as(c: &Config, bits: Option<usize>, dtype: Dtype) -> Model {
    mx::random::seed(7);
    let quant = bits.map(|b| QuantConfig::new(QuantParams::affine(64, b).check().unwrap()));
    Model::random(c.clone(), dtype, quant).unwrap()
}

fn ids(rows: i32, len: i32) -> Array {
    let v: Vec<u32> = (0..rows * len).map(|i| (i * 7919 + 13) as u32 % 500).collect();
    Array::from_slice(&v, [rows, len])
}

fn floats(a: &Array) -> Vec<f32> {
    a.astype(Dtype::Float32).to_vec().unwrap()
}

/// ||a - b|| / ||b||
fn error(a: &[f32], b: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let d = norm(&mut a.iter().zip(b).map(|(x, y)| (x - y) as f64));
    let e = d / norm(&mut b.iter().map(|&x| x as f64)).max(1e-30);
    if e.is_nan() { f64::INFINITY } else { e }
}

#[test]
fn decoded_steps_equal_a_whole_pass() {
    assert!(mx::fast::is_fused());
    for (name, c, bits) in models() {
        for rows in [1, 3] {
            steps_equal_a_pass(name, &load(&c, bits), rows, 4e-2);
        }
        if !card() {
            steps_equal_a_pass(name, &load_as(&c, bits, Dtype::Float32), 2, 1e-5);
        }
    }
}

fn steps_equal_a_pass(name: &str, model: &Model, rows: i32, allowed: f64) {
    let d = &model.decoder;
    let (len, prompt) = (40, 24);
    let all = ids(rows, len);
    let whole = d.forward_direct(&all).unwrap();
    let mut caches = d.caches().unwrap();
    d.forward(&all.slice_axis(1, 0..prompt), &mut caches).eval().unwrap();
    for t in prompt..len {
        let got = d.forward_last(&all.slice_axis(1, t..t + 1), &mut caches);
        let e = error(&floats(&got), &floats(&whole.slice_axis(1, t..t + 1).squeeze(1)));
        assert!(e < allowed, "{name}, {rows} rows, token {t}: {e:e}");
        if t == prompt || t == len - 1 {
            println!("{name}, {rows} rows, token {t}: {e:.1e}");
        }
    }
    assert!(caches.iter().all(|c| c.offset() == len));
}

/// Five kernels a layer on a card, one op a branch on the CPU.
#[test]
fn a_step_takes_few_ops() {
    let (_, c, bits) = models().swap_remove(1);
    let model = load(&c, bits);
    let d = &model.decoder;
    let mut caches = d.caches().unwrap();
    d.forward(&ids(1, 8), &mut caches).eval().unwrap();
    // the first step makes the counters of the kernels
    d.forward_last(&ids(1, 1), &mut caches).eval().unwrap();
    let ops: usize = mx::graph_ops(&[d.forward_last(&ids(1, 1), &mut caches)]).values().sum();
    let a_layer = if card() { 5 } else { 2 };
    assert!(ops <= 3 * a_layer + 6, "{ops} ops in a step of three layers");
}

/// Recorded configs with recurrent or latent layers, all experts chosen (see [`models`]).
fn recorded() -> Vec<(String, Config)> {
    let kinds = [
        "qwen3_next",
        "qwen3_5",
        "olmo_hybrid",
        "kimi_linear",
        "mamba",
        "mamba2",
        "nemotron_h",
        "falcon_h1",
        "granitemoehybrid",
        "rwkv7",
        "deepseek_v2",
        "deepseek_v3",
        "glm4_moe_lite",
        "minicpm3",
    ];
    let mut text = String::new();
    let file = &include_bytes!("data/families.jsonl.gz")[..];
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    let mut found = Vec::<(String, Config)>::new();
    for line in text.lines() {
        let mut c = serde_json::from_str::<Value>(line).unwrap()["config"].take();
        let kind = c["model_type"].as_str().unwrap_or_default().to_string();
        if !kinds.contains(&kind.as_str()) || found.iter().any(|f| f.0 == kind) {
            continue;
        }
        // a latent as wide as the kernel takes it, no choice of groups
        for (key, value) in [("kv_lora_rank", 64), ("n_group", 1), ("topk_group", 1)] {
            if c.get(key).is_some_and(Value::is_number) {
                c[key] = value.into();
            }
        }
        if kind == "minicpm3" {
            c["qk_rope_head_dim"] = 16.into();
            c["rope_scaling"] = Value::Null;
        }
        let experts = ["num_experts", "n_routed_experts", "num_local_experts"].map(|k| c[k].as_u64());
        if let Some(n) = experts.into_iter().flatten().next() {
            for key in ["num_experts_per_tok", "num_experts_per_token"] {
                if c.get(key).is_some() {
                    c[key] = n.into();
                }
            }
        }
        found.push((kind, Config::from_json(c, "config.json").unwrap()));
    }
    assert_eq!(found.len(), kinds.len());
    found
}

#[test]
fn recurrent_and_latent_layers_equal_those_on_the_cpu() {
    let there = card();
    for (name, c) in recorded() {
        mx::random::seed(7);
        let model = Model::random(c.clone(), Dtype::Float16, None).unwrap();
        if !there {
            continue;
        }
        let d = &model.decoder;
        // a prompt that one kernel takes, tokens one by one and in twos, and a prompt that is prepared at once
        let (len, prompt) = (90, 20);
        let all = ids(2, len) % 199u32;
        let cpu = |m: &Model| {
            mx::with_device(mx::Device::Cpu, || {
                let y = m.decoder.forward_direct(&all).unwrap();
                y.eval().unwrap();
                y
            })
        };
        // some of these make much of rounding: no further from float32 than twice what the same type is on the CPU
        let half = cpu(&model);
        mx::random::seed(7);
        let mut wide = Model::random(c, Dtype::Float16, None).unwrap();
        mx::with_device(mx::Device::Cpu, || mx::nn::ModuleExt::set_dtype(&mut wide.decoder, Dtype::Float32));
        let exact = cpu(&wide);
        let cut = |a: &Array, from: i32, to: i32| floats(&a.slice_axis(1, from..to));
        let far = |y: &Array, from: i32, to: i32| error(&floats(y), &cut(&exact, from, to));
        let noise = far(&half, 0, len);
        let token = |t: i32| error(&cut(&half, t, t + 1), &cut(&exact, t, t + 1));
        let noise_of_a_token = (0..len).map(token).fold(0.0, f64::max);
        let whole = far(&d.forward_direct(&all).unwrap(), 0, len);
        let mut caches = d.caches().unwrap();
        let start = d.forward(&all.slice_axis(1, 0..prompt), &mut caches);
        let mut worst = far(&start, 0, prompt);
        let mut at = prompt;
        for n in [1, 1, 1, 2, 1, 5, 1, 1] {
            let y = d.forward(&all.slice_axis(1, at..at + n), &mut caches);
            worst = worst.max(far(&y, at, at + n));
            at += n;
        }
        println!("{name}: whole {whole:.1e} ({noise:.1e}), steps {worst:.1e} ({noise_of_a_token:.1e})");
        assert!(whole < 2.0 * noise + 2e-3, "{name}: whole {whole:e}, noise {noise:e}");
        assert!(worst < 2.0 * noise_of_a_token + 2e-3, "{name}: steps {worst:e}, noise {noise_of_a_token:e}");
    }
}

#[test]
fn packed_caches_decode_as_on_the_cpu() {
    if !card() {
        return;
    }
    // plain and rotating caches, many queries a key
    let many = json!({ "num_attention_heads": 12, "num_key_value_heads": 1 });
    let all_models = models().into_iter().map(|m| (m.0, m.1)).chain([("many queries", config(many))]);
    for (name, c) in all_models.filter(|m| ["llama", "gemma3", "many queries"].contains(&m.0)) {
        let model = load(&c, None);
        let d = &model.decoder;
        let all = ids(2, 40);
        let run = || {
            let mut caches = d.caches().unwrap();
            d.forward(&all.slice_axis(1, 0..20), &mut caches).eval().unwrap();
            mlx_lm::cache::quantize(&mut caches, mlx_lm::cache::KvQuant::new(8, 64)).unwrap();
            (20..40).map(|t| floats(&d.forward_last(&all.slice_axis(1, t..t + 1), &mut caches))).collect::<Vec<_>>()
        };
        let want = mx::with_device(mx::Device::Cpu, run);
        for (t, (got, want)) in run().iter().zip(&want).enumerate() {
            let e = error(got, want);
            assert!(e < 4e-2, "{name}, step {t}: {e:e}");
        }
    }
}

#[test]
fn pages_decode_as_one_buffer() {
    if !card() {
        return;
    }
    let (_, c, _) = models().swap_remove(0);
    let model = load(&c, None);
    let d = &model.decoder;
    let all = ids(2, 60);
    let token = |t: i32| all.slice_axis(1, t..t + 1);
    let mut one = d.caches().unwrap();
    let paged = |_: &_| Box::new(mlx_lm::cache::PagedKvCache::new(16)) as Box<dyn mlx_lm::cache::Cache>;
    let mut pages: Caches = one.iter().map(paged).collect();
    for caches in [&mut one, &mut pages] {
        d.forward(&all.slice_axis(1, 0..20), caches).eval().unwrap();
    }
    let mut fork: Option<Caches> = None;
    for t in 20..60 {
        let (want, got) = (d.forward_last(&token(t), &mut one), d.forward_last(&token(t), &mut pages));
        let e = error(&floats(&got), &floats(&want));
        assert!(e < 1e-2, "token {t}: {e:e}");
        if t == 36 {
            fork = Some(pages.iter().map(|c| c.boxed_clone()).collect());
        }
        if t == 37 {
            // a fork in the middle of a page goes on as the first did
            let again = d.forward_last(&token(37), fork.as_mut().unwrap());
            assert!(error(&floats(&again), &floats(&got)) < 1e-6);
        }
    }
}

#[test]
fn rows_of_unequal_length_decode_as_alone() {
    for (name, c, bits) in models() {
        let model = load(&c, bits);
        let d = &model.decoder;
        let all = ids(2, 40);
        let start = |row: i32, len: i32| -> Caches {
            let mut caches = d.caches().unwrap();
            let prompt = all.slice_axis(0, row..row + 1).slice_axis(1, 0..len);
            d.forward(&prompt, &mut caches).eval().unwrap();
            caches
        };
        let (lengths, mut alone) = ([9, 20], [start(0, 9), start(1, 20)]);
        let mut joined = start(0, 9);
        for (a, b) in joined.iter_mut().zip(start(1, 20)) {
            a.join(b).unwrap();
        }
        for step in 0..6 {
            let token = |row: i32| {
                let at = lengths[row as usize] + step;
                all.slice_axis(0, row..row + 1).slice_axis(1, at..at + 1)
            };
            let both = floats(&d.forward_last(&mx::concatenate(&[token(0), token(1)], 0), &mut joined));
            for row in 0..2 {
                let one = floats(&d.forward_last(&token(row), &mut alone[row as usize]));
                let e = error(&both[row as usize * 500..][..500], &one);
                assert!(e < 4e-2, "{name}, row {row}, step {step}: {e:e}");
            }
        }
    }
}

#[test]
fn a_fork_and_a_rewind_do_not_disturb_each_other() {
    let (_, c, _) = models().swap_remove(0);
    let model = load(&c, None);
    let d = &model.decoder;
    let all = ids(1, 40);
    let token = |t: i32| all.slice_axis(1, t..t + 1);
    let mut caches = d.caches().unwrap();
    d.forward(&all.slice_axis(1, 0..16), &mut caches).eval().unwrap();
    d.forward_last(&token(16), &mut caches).eval().unwrap();
    let mut fork: Caches = caches.iter().map(|c| c.boxed_clone()).collect();
    let straight = floats(&d.forward_last(&token(17), &mut caches));
    // other tokens through the fork, then the same one after taking them back
    for t in 20..24 {
        d.forward_last(&token(t), &mut fork).eval().unwrap();
    }
    assert_eq!(mlx_lm::cache::trim(&mut fork, 4), 4);
    let again = floats(&d.forward_last(&token(17), &mut fork));
    assert!(error(&again, &straight) < 1e-6);
    let next = floats(&d.forward_last(&token(18), &mut caches));
    let next_fork = floats(&d.forward_last(&token(18), &mut fork));
    assert!(error(&next_fork, &next) < 1e-6);
}
