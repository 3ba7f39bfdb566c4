//! Fine-tuning against recorded Python values, and what a run promises: resuming, fusing, refusing.

#[path = "goldens/case.rs"]
#[allow(dead_code)]
mod case;
#[path = "goldens/rule.rs"]
#[allow(dead_code)]
mod rule;

use mlx::nn::ModuleExt;
use mlx::optim::{Adam, Optimizer};
use mlx::{self as mx, Array};
use mlx_lm::Model;
use mlx_lm::train::{self, AdapterConfig, Batch, Dataset, Example, FineTune, LoraConfig, LoraParameters, Trainer};
use serde_json::{Value, json};
use std::path::Path;

fn golden(name: &str) -> Value {
    case::all("families").into_iter().find(|c| c["case"] == name).unwrap()
}

fn model(case: &Value, dir: &Path) -> Model {
    case::write(dir, &case["config"], &case::tensors(case));
    Model::load(dir).unwrap()
}

fn records() -> Vec<Value> {
    serde_json::from_str(include_str!("data/train/lora.json")).unwrap()
}

/// The record's adapters with its weights, and its batch.
fn prepared(r: &Value, dir: &Path) -> (Model, Batch) {
    let mut m = model(&golden(r["case"].as_str().unwrap()), dir);
    let dora = r["kind"] == "dora";
    let keys = dora.then(|| vec!["self_attn.q_proj".to_string(), "mlp.down_proj".into()]);
    let p = LoraParameters { rank: 4, scale: 2.0, keys, ..LoraParameters::default() };
    train::attach(&mut m.decoder, if dora { FineTune::Dora } else { FineTune::Lora }, 2, &p).unwrap();
    let fixed: Vec<(String, Array)> = m
        .decoder
        .trainable()
        .into_iter()
        .filter(|(n, _)| !n.ends_with(".m"))
        .map(|(n, a)| {
            let bytes = rule::tensor(&n, a.shape(), "F32", 3, None);
            let new = Array::try_from_bytes(&bytes, a.shape(), mx::Dtype::Float32).unwrap();
            (n, new)
        })
        .collect();
    m.decoder.update(fixed, false).unwrap();
    let rows = |v: &Value| -> Vec<i32> { v.as_array().unwrap().iter().flat_map(case::ints).collect() };
    let batch = Batch {
        ids: Array::from_slice(&rows(&r["ids"]), [2, 33]),
        lengths: Array::from_slice(&rows(&r["lengths"]), [2, 2]),
        lines: vec![1, 2],
    };
    (m, batch)
}

#[test]
fn losses_gradients_and_adam_steps_equal_pythons() {
    for r in records() {
        let what = format!("{} {}", r["case"], r["kind"]);
        let dir = tempfile::tempdir().unwrap();
        let (mut m, batch) = prepared(&r, dir.path());
        let names: Vec<String> = m
            .decoder
            .trainable()
            .into_iter()
            .map(|(n, _)| n)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let want: Vec<String> = serde_json::from_value(r["names"].clone()).unwrap();
        assert_eq!(names, want, "{what}");
        let step = mx::nn::try_value_and_grad(|d: &mlx_lm::decoder::Decoder, b: &Batch| train::cross_entropy(d, b));
        let ((loss, tokens), grads) = step(&mut m.decoder, &batch).unwrap();
        assert!((loss.item::<f32>().unwrap() - case::float(&r["loss"])).abs() < 1e-4, "{what}");
        assert_eq!(tokens.item::<f64>().unwrap(), r["tokens"].as_f64().unwrap(), "{what}");
        for (name, g) in &grads {
            let want = &r["grads"][name];
            let (norm, stride) = (case::float(&want["norm"]), want["stride"].as_u64().unwrap() as usize);
            let got = g.to_vec::<f32>().unwrap();
            let own: f32 = got.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((own - norm).abs() <= 1e-4 * norm.max(1e-3), "{what} {name}: norm {own} instead of {norm}");
            for (i, w) in case::floats(&want["values"]).iter().enumerate() {
                assert!((got[i * stride] - w).abs() <= 1e-4 * norm.max(1e-3), "{what} {name} [{}]", i * stride);
            }
        }
        let mut adam = Adam::new(1e-3);
        for (k, want) in case::floats(&r["adam_losses"]).iter().enumerate() {
            let ((loss, _), grads) = step(&mut m.decoder, &batch).unwrap();
            adam.update(&mut m.decoder, &grads);
            assert!((loss.item::<f32>().unwrap() - want).abs() < 1e-3, "{what} step {k}: {loss} instead of {want}");
        }
    }
}

fn data() -> Dataset {
    let examples: Vec<Example> = (0..12u32)
        .map(|i| Example {
            ids: (0..10 + i).map(|k| (k * 7 + i * 13) % 199).collect(),
            offset: (i % 3) as usize,
            line: i as usize + 1,
        })
        .collect();
    Dataset { row_lengths: vec![1; examples.len()], examples }
}

fn config(dir: &Path, iters: usize) -> LoraConfig {
    LoraConfig {
        train: true,
        iters,
        batch_size: 3,
        learning_rate: 1e-3,
        num_layers: -1,
        steps_per_report: 2,
        save_every: 4,
        adapter_path: dir.to_path_buf(),
        lora_parameters: LoraParameters { rank: 4, dropout: 0.1, ..LoraParameters::default() },
        ..LoraConfig::default()
    }
}

fn fit(m: &mut Model, c: &LoraConfig, stop_after: usize) -> Vec<f64> {
    let (set, none) = (data(), Dataset::default());
    let adapter_config = AdapterConfig::of(c);
    let mut t = Trainer {
        decoder: &mut m.decoder,
        config: c,
        train: &set,
        valid: &none,
        loss: &train::cross_entropy,
        adapter_config,
    };
    let seen = std::cell::Cell::new(0);
    let mut losses = Vec::new();
    t.run(&mut |r| losses.extend(r.train_loss), &|| {
        seen.set(seen.get() + 1);
        seen.get() == stop_after
    })
    .unwrap();
    losses
}

fn fresh(dir: &Path, c: &LoraConfig) -> Model {
    let mut m = model(&golden("llama"), dir);
    mx::random::seed(5);
    train::attach(&mut m.decoder, c.fine_tune_type, c.num_layers, &c.lora_parameters).unwrap();
    m
}

fn weights(m: &Model) -> Vec<(String, Vec<f32>)> {
    m.decoder.trainable().into_iter().map(|(n, a)| (n, a.to_vec().unwrap())).collect()
}

#[test]
fn a_run_that_was_interrupted_resumes_bit_for_bit() {
    let (dir, a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let straight = config(a.path(), 8);
    let mut m = fresh(dir.path(), &straight);
    let losses = fit(&mut m, &straight, 0);
    assert!(losses.last().unwrap() < losses.first().unwrap(), "{losses:?}");
    // stopped after 5 of 8, then on from what that saved
    let first = config(b.path(), 8);
    let mut half = fresh(dir.path(), &first);
    fit(&mut half, &first, 5);
    let again = LoraConfig { resume_adapter_file: Some(b.path().join("adapters.safetensors")), ..config(b.path(), 8) };
    let mut resumed = fresh(dir.path(), &again);
    fit(&mut resumed, &again, 0);
    assert_eq!(weights(&resumed), weights(&m));
}

#[test]
fn adapters_come_back_from_disk_and_refuse_another_model() {
    let (dir, out, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = config(out.path(), 4);
    let mut m = fresh(dir.path(), &c);
    fit(&mut m, &c, 0);
    m.decoder.eval();
    let ids = Array::from_slice(&[1i32, 5, 9, 2], [1, 4]);
    let logits = |m: &Model| m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).to_vec::<f32>().unwrap();
    let mut loaded = Model::load(dir.path()).unwrap();
    let base = logits(&loaded);
    train::load_adapters(&mut loaded.decoder, out.path()).unwrap();
    assert_eq!(logits(&loaded), logits(&m));
    assert_ne!(base, logits(&m));
    // fused weights give what the live adapters give
    let live = logits(&loaded);
    let report = train::fuse(&mut loaded.decoder, false).unwrap();
    assert_eq!(report.fused.len(), 4 * 7);
    for (a, b) in logits(&loaded).iter().zip(&live) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    assert!(train::fuse(&mut loaded.decoder, false).unwrap_err().to_string().contains("nothing to fuse"));
    // a wider model refuses them, and is left as it was
    let mut wide = golden("llama");
    wide["config"]["hidden_size"] = json!(128);
    let mut qwen = model(&golden("qwen2"), other.path());
    let before = qwen.decoder.num_parameters();
    let mut bytes = std::fs::read(out.path().join("adapter_config.json")).unwrap();
    let text = String::from_utf8(std::mem::take(&mut bytes)).unwrap().replace("\"rank\": 4", "\"rank\": 5");
    std::fs::write(out.path().join("adapter_config.json"), text).unwrap();
    let e = train::load_adapters(&mut qwen.decoder, out.path()).unwrap_err().to_string();
    assert!(e.contains("lora_a") || e.contains("lora_b"), "{e}");
    assert_eq!(qwen.decoder.num_parameters(), before);
}

#[test]
fn a_loss_that_is_not_finite_names_the_iteration_and_the_lines() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = LoraConfig { learning_rate: 1e30, ..config(out.path(), 8) };
    let mut m = fresh(dir.path(), &c);
    let (set, none) = (data(), Dataset::default());
    let adapter_config = AdapterConfig::of(&c);
    let mut t = Trainer {
        decoder: &mut m.decoder,
        config: &c,
        train: &set,
        valid: &none,
        loss: &train::cross_entropy,
        adapter_config,
    };
    let e = t.run(&mut |_| {}, &|| false).unwrap_err().to_string();
    assert!(e.contains("iteration") && e.contains("lines"), "{e}");
}

#[test]
fn the_shuffle_is_numpys() {
    // numpy.random.seed(0); permutation(10), then permutation(5)
    let mut s = train::Shuffle::new(0);
    assert_eq!(s.permutation(10), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
    assert_eq!(s.permutation(5), [1, 0, 2, 3, 4]);
}
