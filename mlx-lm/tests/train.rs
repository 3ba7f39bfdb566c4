//! Fine-tuning against recorded Python values, and what a run promises: resuming, fusing, refusing.

#[path = "train/adapters.rs"]
mod adapters;
#[path = "train/data.rs"]
mod data_files;
#[path = "train/fuse.rs"]
mod fuse;
#[path = "train/python.rs"]
mod python;
#[path = "train/runs.rs"]
mod runs;
#[path = "train/steps.rs"]
mod steps;

#[path = "goldens/case.rs"]
#[allow(dead_code)]
mod case;
#[path = "goldens/rule.rs"]
#[allow(dead_code)]
mod rule;

use mlx::nn::ModuleExt;
use mlx::{self as mx, Array};
use mlx_lm::Model;
use mlx_lm::train::{self, AdapterConfig, Batch, Dataset, Example, FineTune, LoraConfig, LoraParameters, Trainer};
use serde_json::Value;
use std::path::Path;
use std::rc::Rc;

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
    let wrapper = m.decoder.blueprint().wrapper.clone();
    let fixed: Vec<(String, Array)> = m
        .decoder
        .trainable()
        .into_iter()
        .filter(|(n, _)| !n.ends_with(".m"))
        .map(|(n, a)| {
            let bytes = rule::tensor(&format!("{wrapper}{n}"), a.shape(), "F32", 3, None);
            let new = Array::try_from_bytes(&bytes, a.shape(), mx::Dtype::Float32).unwrap();
            (n, new)
        })
        .collect();
    m.decoder.update(fixed, false).unwrap();
    let rows = |v: &Value| -> Vec<i32> { v.as_array().unwrap().iter().flat_map(case::ints).collect() };
    let batch = Batch {
        ids: Array::from_slice(&rows(&r["ids"]), [2, 33]),
        lengths: Array::from_slice(&rows(&r["lengths"]), [2, 2]),
        packed: None,
        lines: vec![1, 2],
    };
    (m, batch)
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
        loss: Rc::new(train::cross_entropy),
        adapter_config,
    };
    let seen = std::cell::Cell::new(0);
    let mut losses = Vec::new();
    t.run(&mut |r| losses.extend(r.train_loss), &mut |_| {
        seen.set(seen.get() + 1);
        seen.get() != stop_after
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

/// Logits of a few ids, flat.
fn logits(m: &Model) -> Vec<f32> {
    let ids = Array::from_slice(&[1i32, 5, 9, 2], [1, 4]);
    m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).to_vec::<f32>().unwrap()
}

fn trainer<'a>(m: &'a mut Model, c: &'a LoraConfig, train: &'a Dataset, valid: &'a Dataset) -> Trainer<'a> {
    let adapter_config = AdapterConfig::of(c);
    let loss = Rc::new(train::cross_entropy);
    Trainer { decoder: &mut m.decoder, config: c, train, valid, loss, adapter_config }
}

fn assert_near(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{worst}");
}
