//! Broken models and impossible requests: one line that names the file and the thing, exit code 1.

use crate::toy::{Stored, Toy, run};
use serde_json::json;
use std::fs;

const ASK: [&str; 4] = ["--prompt-ids", "1,2,3", "--max-tokens", "1"];

#[test]
fn a_truncated_or_hostile_safetensors_file_is_named() {
    let toy = Toy::new();
    let file = toy.path().join("model.safetensors");
    let good = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for (bytes, thing) in [
        (good[..good.len() - 100].to_vec(), "byte"),
        (good[..8 + header / 2].to_vec(), "header"),
        (good[..5].to_vec(), "byte"),
        ([&u64::MAX.to_le_bytes()[..], &good[8..]].concat(), "header"),
        ([&(1u64 << 40).to_le_bytes()[..], &good[8..]].concat(), "header"),
    ] {
        fs::write(&file, bytes).unwrap();
        toy.run("generate", &ASK).fails_with(&["model.safetensors", thing]);
    }
}

#[test]
fn a_truncated_or_hostile_gguf_file_is_named() {
    let toy = Toy::new();
    let file = toy.path().join("m.gguf");
    let head = |version: u32, tensors: u64, keys: u64| {
        [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
    };
    let key = b"\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xffllama";
    for bytes in [
        b"GGUF".to_vec(),
        b"GGML\x03\0\0\0".to_vec(),
        head(99, 0, 0),
        head(3, 1, 1),
        head(3, u64::MAX, u64::MAX),
        [head(3, 0, 1), key.to_vec()].concat(),
        head(3, 0, 0),
    ] {
        fs::write(&file, &bytes).unwrap();
        let out = run(&[&["generate", "--model", file.to_str().unwrap()], &ASK[..]].concat());
        out.fails_with(&["m.gguf"]);
    }
}

#[test]
fn tensors_that_are_missing_extra_or_misshapen_are_named() {
    let toy = Toy::new();
    let q = "model.layers.2.self_attn.q_proj.weight";
    toy.weights(|t| t.retain(|t| t.name != q));
    toy.run("generate", &ASK).fails_with(&[q, "missing", toy.path().to_str().unwrap()]);
    toy.weights(|t| t.push(Stored { name: "model.layers.1.extra.weight".into(), shape: vec![2], bytes: vec![0; 8] }));
    toy.run("generate", &ASK).fails_with(&["model.layers.1.extra.weight", toy.path().to_str().unwrap()]);
    toy.weights(|t| t.iter_mut().filter(|t| t.name == q).for_each(|t| t.shape = vec![32, 128]));
    toy.run("generate", &ASK).fails_with(&[q, "[32, 128]", "[64, 64]"]);
}

#[test]
fn configs_that_cannot_be_used_are_told() {
    let toy = Toy::new();
    toy.config(&[("model_type", json!("nonesuch"))]);
    toy.run("generate", &ASK).fails_with(&["nonesuch"]);
    toy.config(&[("hidden_size", json!(null))]);
    toy.run("generate", &ASK).fails_with(&["hidden_size", "missing"]);
    toy.config(&[("num_attention_heads", json!("four"))]);
    toy.run("generate", &ASK).fails_with(&["num_attention_heads", "four"]);
    fs::write(toy.path().join("config.json"), "{\"model_type\": ").unwrap();
    toy.run("generate", &ASK).fails_with(&["config.json", "JSON"]);
    fs::remove_file(toy.path().join("config.json")).unwrap();
    toy.run("generate", &ASK).fails_with(&["config.json"]);
}

#[test]
fn a_tokenizer_that_is_no_json_is_told_and_a_missing_one_when_it_is_needed() {
    let toy = Toy::new();
    toy.run("generate", &["--prompt", "w7"]).fails_with(&[toy.path().to_str().unwrap(), "tokenizer.json"]);
    toy.run("chat", &[]).fails_with(&["tokenizer.json"]);
    fs::write(toy.path().join("tokenizer.json"), "this is no JSON").unwrap();
    toy.run("generate", &ASK).fails_with(&["tokenizer.json"]);
}

#[test]
fn requests_that_cannot_be_served_are_told() {
    let toy = Toy::new();
    toy.config(&[("max_position_embeddings", json!(8))]);
    let ask = |args: &[&str], parts: &[&str]| toy.run("generate", args).fails_with(parts);
    ask(&["--prompt-ids", "1,2,3,4,5,6,7,8,9"], &["9 tokens", "holds 8", toy.path().to_str().unwrap()]);
    ask(&["--prompt-ids", ""], &["no tokens"]);
    ask(&["--prompt-ids", "1,199"], &["199", "vocabulary"]);
    ask(&["--prompt-ids", "1", "--max-tokens", "0"], &["max_tokens"]);
    ask(&["--prompt-ids", "1", "--temp", "-1"], &["temperature"]);
    ask(&["--prompt-ids", "1", "--temp", "1", "--top-k", "199"], &["top_k"]);
    ask(&["--prompt-ids", "1", "--stop", "x"], &["tokenizer"]);
    ask(&["--prompt-ids", "1,2", "--max-kv-size", "0"], &["max_kv_size"]);
    ask(&["--prompt-ids", "1,2", "--kv-bits", "7", "--quantized-kv-start", "0"], &["7"]);
    run(&["generate", "--model", "/no/such/model"]).fails_with(&["/no/such/model"]);
    run(&["generate", "--model", "no-such/model"]).fails_with(&["no-such/model", "HF_HUB_OFFLINE"]);
    toy.run("perplexity", &["--ids-file", "/no/such/file"]).fails_with(&["/no/such/file"]);
    let file = toy.path().join("ids");
    fs::write(&file, "1 2\n3 x").unwrap();
    toy.run("perplexity", &["--ids-file", file.to_str().unwrap()]).fails_with(&["ids", "line 2", "\"x\""]);
    run(&["benchmark", "--config", "/no/such.json", "--random-weights"]).fails_with(&["/no/such.json"]);
}
