//! What is said of a model before it is loaded, against the model once it is.

use crate::goldens;
use mlx_lm::Model;
use mlx_lm::cache::{CacheOptions, KvLayout};
use mlx_lm::generate::{TokenOptions, Tokens};
use mlx_lm::pack::{self, discover};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A recorded toy model on disk.
fn write(dir: &Path, name: &str) -> Value {
    let c = goldens::all("families").into_iter().find(|c| c["case"] == name).unwrap();
    goldens::write(dir, &c["config"], &goldens::tensors(&c));
    c
}

#[test]
fn planned_caches_are_as_large_as_those_that_generate() {
    let paged = CacheOptions { layout: KvLayout::Paged { page: 64 }, ..Default::default() };
    let bounded = CacheOptions { max_size: Some(48), ..Default::default() };
    let plain = CacheOptions::default();
    for (name, options) in [
        ("qwen3", plain),
        ("qwen3", paged),
        ("qwen3", bounded),
        ("gemma3", plain),
        ("deepseek_v3", plain),
        ("mamba2", plain),
        ("falcon_h1", plain),
        ("qwen3_next", plain),
        ("llama4", plain),
        ("gemma3n", plain),
        ("qwen3_moe.q4", plain),
        ("qwen3.bf16", paged),
        ("gpt_oss.hf", plain),
        ("qwen2.awq.hf", plain),
        ("deepseek_v3.fp8.hf", plain),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let c = goldens::all("families").into_iter().find(|c| c["case"] == name);
        if c.is_none() {
            continue;
        }
        write(dir.path(), name);
        let m = Model::load(dir.path()).unwrap();
        for n in [40, 300] {
            let found = pack::inspect(dir.path(), Some(n), options).unwrap();
            assert!(found.loads, "{name}: {:?}", found.refusal);
            let mut caches = m.decoder.caches_with(options).unwrap();
            let how = TokenOptions { max_tokens: Some(n), ..TokenOptions::default() };
            // the last token generated is never fed
            assert_eq!(Tokens::new(&m.decoder, &[3], &mut caches, how).unwrap().count(), n);
            let planned: Vec<u64> = found.caches.iter().map(|c| c.bytes).collect();
            let real: Vec<u64> = caches.iter().map(|c| c.nbytes() as u64).collect();
            assert_eq!(planned, real, "{name} after {n} tokens");
            assert_eq!(found.cache_bytes, real.iter().sum::<u64>());
        }
    }
}

#[test]
fn what_will_not_load_is_said_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let c = write(dir.path(), "qwen3");
    let refusal = |config: &Value, drop: &str, shape: Option<&str>| {
        let mut tensors = goldens::tensors(&c);
        tensors.retain(|t| t.name != drop);
        for t in &mut tensors {
            if Some(&t.name[..]) == shape {
                t.shape.reverse();
            }
        }
        goldens::write(dir.path(), config, &tensors);
        let found = pack::inspect(dir.path(), None, CacheOptions::default()).unwrap();
        let loaded = Model::load(dir.path()).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(found.loads, loaded.is_ok());
        assert_eq!(found.refusal, loaded.err(), "the loader's own words");
        found.refusal.unwrap_or_default()
    };
    let config = |key: &str, value: Value| {
        let mut config = c["config"].clone();
        config[key] = value;
        config
    };
    assert_eq!(refusal(&c["config"], "", None), "");
    assert!(refusal(&config("model_type", json!("martian")), "", None).contains("martian"));
    let q = "model.layers.1.self_attn.k_proj.weight";
    assert!(refusal(&c["config"], q, None).contains(q), "a tensor is missing");
    assert!(refusal(&c["config"], "", Some(q)).contains(q), "a shape is wrong");
    assert!(refusal(&config("num_hidden_layers", json!(1)), "", None).contains("model.layers.1."), "a layer too many");
}

#[test]
fn the_hash_is_of_the_pack_and_not_of_its_place() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = write(a.path(), "qwen3");
    write(b.path(), "qwen3");
    let hash = |dir: &Path| pack::inspect(dir, None, CacheOptions::default()).unwrap().hash;
    let first = hash(a.path());
    assert_eq!((first.len(), &first), (64, &hash(b.path())));
    let mut seen = vec![first];
    let mut changed = |what: &str, change: &dyn Fn(&Path)| {
        change(b.path());
        let now = hash(b.path());
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    changed("a tokenizer", &|d| fs::write(d.join("tokenizer_config.json"), "{}").unwrap());
    changed("a template", &|d| fs::write(d.join("chat_template.jinja"), "x").unwrap());
    changed("the config", &|d| {
        let mut config = c["config"].clone();
        config["rope_theta"] = json!(5.0);
        goldens::write(d, &config, &goldens::tensors(&c));
    });
    changed("a shape", &|d| {
        let mut tensors = goldens::tensors(&c);
        tensors[0].shape.reverse();
        goldens::write(d, &c["config"], &tensors);
    });
    // weights' values do not count: they are never read
    let now = hash(b.path());
    let mut tensors = goldens::tensors(&c);
    tensors[0].shape.reverse();
    tensors[0].bytes.fill(1);
    goldens::write(b.path(), &c["config"], &tensors);
    assert_eq!(hash(b.path()), now);
}

#[test]
fn models_are_found_wherever_they_lie() {
    let root = tempfile::tempdir().unwrap();
    let at = |p: &str| root.path().join(p);
    let snapshot = at("models--org--name/snapshots/abc");
    for dir in [&at("plain"), &snapshot, &at("empty"), &at("gguf/deep"), &at("models--org--name/blobs")] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(at("plain/config.json"), "{}").unwrap();
    fs::write(at("plain/model.safetensors"), "").unwrap();
    fs::write(at("empty/config.json"), "{}").unwrap();
    for name in ["one.gguf", "two-00001-of-00002.gguf", "two-00002-of-00002.gguf", "three-of-four.gguf"] {
        fs::write(at("gguf/deep").join(name), "").unwrap();
    }
    let blob = at("models--org--name/blobs/1");
    fs::write(&blob, "").unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&blob, snapshot.join("model-00001-of-00001.safetensors")).unwrap();
        std::os::unix::fs::symlink(at("gone"), at("empty/model.safetensors")).unwrap();
    }
    let found: Vec<String> = discover(root.path())
        .unwrap()
        .iter()
        .map(|p| p.strip_prefix(root.path()).unwrap().display().to_string())
        .collect();
    let mut want =
        vec!["gguf/deep/one.gguf", "gguf/deep/three-of-four.gguf", "gguf/deep/two-00001-of-00002.gguf", "plain"];
    if cfg!(unix) {
        want.insert(3, "models--org--name/snapshots/abc");
    }
    assert_eq!(found, want);
    assert!(discover(at("nowhere")).is_err());
}
