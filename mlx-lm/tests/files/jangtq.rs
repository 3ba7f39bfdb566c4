//! JANGTQ checkpoints, coded by a scalar loop, against the same model with the weights that the codes stand for.

use crate::goldens::{self, Stored};
use mlx::nn::ModuleExt;
use mlx::{Array, Dtype};
use mlx_lm::Model;
use mlx_lm::cache::CacheOptions;
use mlx_lm::pack;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn stored(name: String, shape: &[usize], dtype: &'static str, bytes: Vec<u8>) -> Stored {
    Stored { name, shape: shape.iter().map(|&d| d as i32).collect(), dtype, bytes }
}

fn floats(name: String, shape: &[usize], values: &[f32]) -> Stored {
    stored(name, shape, "F32", values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn values(t: &Stored) -> Vec<f32> {
    t.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The part of a tensor within `shape`.
fn cut(t: &Stored, shape: [usize; 2]) -> Stored {
    let row = t.shape[1] as usize;
    let kept: Vec<f32> = values(t).chunks(row).take(shape[0]).flat_map(|r| r[..shape[1]].to_vec()).collect();
    floats(t.name.clone(), &shape, &kept)
}

/// 2^bits numbers, closer to each other around zero.
fn book(input: usize, bits: usize) -> Vec<f32> {
    let n = 1 << bits;
    let at = |i: usize| (2 * i + 1) as f32 / n as f32 - 1.0;
    (0..n).map(|i| at(i) * (1.0 + at(i).abs()) * 1.3 / (input as f32).sqrt()).collect()
}

fn signs(input: usize) -> Vec<f32> {
    (0..input).map(|i| if (i * i + i / 3) % 5 < 2 { -1.0 } else { 1.0 }).collect()
}

/// H of a row: its blocks are the descending powers of two that add up to its width.
fn hadamard(row: &[f32]) -> Vec<f32> {
    let (mut out, mut rest) = (Vec::new(), row);
    while !rest.is_empty() {
        let n = 1 << rest.len().ilog2();
        let (part, after) = rest.split_at(n);
        let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        out.extend((0..n).map(|i| {
            let sum: f64 = part.iter().enumerate().map(|(j, v)| sign(i, j) * f64::from(*v)).sum();
            (sum / (n as f64).sqrt()) as f32
        }));
        rest = after;
    }
    out
}

/// Words and lengths of a weight, and the weight that they stand for.
fn code(weight: &[f32], input: usize, bits: usize) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let (book, signs) = (book(input, bits), signs(input));
    let (mut words, mut norms, mut dense) = (Vec::new(), Vec::new(), Vec::new());
    for row in weight.chunks(input) {
        let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
        let turned = hadamard(&row.iter().zip(&signs).map(|(w, s)| w * s / norm).collect::<Vec<_>>());
        let near =
            |v: f32| (0..book.len()).min_by(|&a, &b| (book[a] - v).abs().total_cmp(&(book[b] - v).abs())).unwrap();
        let codes: Vec<usize> = turned.into_iter().map(near).collect();
        for part in codes.chunks(32 / bits) {
            words.push(part.iter().enumerate().fold(0, |word, (i, c)| word | (*c as u32) << (i * bits)));
        }
        let back = hadamard(&codes.iter().map(|&c| book[c]).collect::<Vec<_>>());
        dense.extend(back.iter().zip(&signs).map(|(v, s)| norm * v * s));
        norms.push(norm);
    }
    (words, norms, dense)
}

/// A coded model in `dir`, and the dense one that it stands for in `dense`: those modules with bits, the feed-forward
/// width cut to 96, experts in one tensor where `stacked`.
fn write(case: &str, bits: &dyn Fn(&str) -> Option<usize>, stacked: bool, dir: &Path, dense: &Path) -> Vec<i32> {
    let c = goldens::all("families").into_iter().find(|c| c["case"] == case).unwrap();
    let mut config = c["config"].clone();
    let narrow = config["intermediate_size"] == 128;
    config["intermediate_size"] = json!(96);
    let (mut coded, mut plain, mut side) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut experts: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    for t in goldens::tensors(&c) {
        let t = match *t.shape {
            [128, n] if narrow && t.name.contains("mlp") => cut(&t, [96, n as usize]),
            [n, 128] if narrow && t.name.contains("mlp") => cut(&t, [n as usize, 96]),
            _ => t,
        };
        let module = t.name.strip_suffix(".weight").filter(|_| t.shape.len() > 1).map(str::to_owned);
        let Some((module, bits)) = module.and_then(|m| Some((m.clone(), bits(&m)?))) else {
            plain.push(stored(
                t.name.clone(),
                &t.shape.iter().map(|&d| d as usize).collect::<Vec<_>>(),
                "F32",
                t.bytes.clone(),
            ));
            coded.push(t);
            continue;
        };
        let (out, input) = (t.shape[0] as usize, t.shape[1] as usize);
        let (words, norms, weight) = code(&values(&t), input, bits);
        plain.push(floats(t.name.clone(), &[out, input], &weight));
        let per_row = words.len() / out;
        let words = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let parts = [
            stored(format!("{module}.tq_packed"), &[out, per_row], "U32", words),
            floats(format!("{module}.tq_norms"), &[out], &norms),
            stored(format!("{module}.tq_bits"), &[1], "U8", vec![bits as u8]),
        ];
        for part in parts {
            let expert = part
                .name
                .split_once(".experts.")
                .and_then(|(a, b)| Some((a.to_owned(), b.split_once('.')?.1.to_owned())));
            match expert.filter(|_| stacked) {
                Some((a, b)) => experts.entry(format!("{a}.switch_mlp.{b}")).or_default().push(part),
                None => coded.push(part),
            }
        }
        side.insert(format!("codebook.{input}.{bits}"), (1 << bits, book(input, bits)));
        side.insert(format!("signs.{input}.42"), (input, signs(input)));
    }
    for (name, parts) in experts {
        let shape: Vec<usize> = [parts.len()].into_iter().chain(parts[0].shape.iter().map(|&d| d as usize)).collect();
        let bytes = parts.iter().flat_map(|p| p.bytes.clone()).collect();
        // one says it for all
        match name.ends_with("tq_bits") {
            true => coded.push(stored(name, &[1], "U8", parts[0].bytes.clone())),
            false => coded.push(stored(name, &shape, parts[0].dtype, bytes)),
        }
    }
    let side: Vec<Stored> = side.into_iter().map(|(name, (n, v))| floats(name, &[n], &v)).collect();
    goldens::write(dir, &config, &side);
    std::fs::rename(dir.join("model.safetensors"), dir.join("jangtq_runtime.safetensors")).unwrap();
    goldens::write(dir, &config, &coded);
    goldens::write(dense, &config, &plain);
    let jang: Value = json!({"weight_format": "mxtq", "profile": "JANGTQ2", "group_size": 64, "bits_default": 2,
        "mxtq_bits": {"routed_expert": {"gate_proj": 2, "up_proj": 2, "down_proj": 4}}});
    std::fs::write(dir.join("jang_config.json"), jang.to_string()).unwrap();
    goldens::ints(&c["prompt"])
}

fn logits(m: &Model, prompt: &[i32]) -> Vec<f32> {
    let ids = Array::from_slice(prompt, [1, prompt.len() as i32]);
    let mut caches = m.decoder.caches().unwrap();
    let mut logits = |ids: &Array| m.decoder.forward(ids, &mut caches).astype(Dtype::Float32).to_vec::<f32>().unwrap();
    let first = logits(&ids);
    // and a single token, which takes other paths through experts
    [first, logits(&ids.slice_axis(1, 0..1))].concat()
}

fn agree(case: &str, bits: &dyn Fn(&str) -> Option<usize>, stacked: bool) -> Model {
    let (dir, dense) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let prompt = write(case, bits, stacked, dir.path(), dense.path());
    let (m, want) = (Model::load(dir.path()).unwrap(), logits(&Model::load(dense.path()).unwrap(), &prompt));
    let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    let off = logits(&m, &prompt).iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= 2e-5 * largest, "{case}: off by {off} of {largest}");
    let said = pack::inspect(dir.path(), None, CacheOptions::default()).unwrap();
    assert!(said.loads, "{case}: {:?}", said.refusal);
    m
}

fn linear(module: &str) -> bool {
    module.contains("proj") || module.contains("lm_head") || module.contains("embed")
}

#[test]
fn codes_of_all_bits_give_the_logits_of_their_rows_and_stay_packed() {
    for bits in [1, 2, 3, 4, 8] {
        let m = agree("qwen3", &|m| linear(m).then_some(bits), false);
        let held: usize =
            m.decoder.parameters().iter().filter(|(n, _)| n.ends_with("weight")).map(|(_, a)| a.nbytes()).sum();
        let weights = 199 * 64 * 2 + 4 * (64 * 64 * 2 + 32 * 64 * 2 + 96 * 64 * 3);
        // the norms of layers are dense; codes of three bits take a byte
        assert_eq!(
            held,
            weights * if bits == 3 { 8 } else { bits } / 8 + (4 * (64 * 2 + 16 * 2) + 64) * 4,
            "{bits} bits"
        );
    }
}

#[test]
fn experts_one_by_one_or_stacked_have_bits_by_projection() {
    let bits = |m: &str| match m {
        m if m.contains(".experts.") => Some(if m.contains("down") { 4 } else { 2 }),
        m => m.contains("lm_head").then_some(8),
    };
    agree("qwen3_moe.hf", &bits, false);
    agree("qwen3_moe.hf", &bits, true);
}

#[test]
fn codes_without_their_sidecar_are_refused() {
    let (dir, dense) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let side = dir.path().join("jangtq_runtime.safetensors");
    let error = || Model::load(dir.path()).map(|_| ()).unwrap_err().to_string();
    write("qwen3", &|m| m.contains("q_proj").then_some(2), false, dir.path(), dense.path());
    std::fs::remove_file(&side).unwrap();
    assert!(error().contains("jangtq_runtime.safetensors"), "{}", error());
    // that of another model: no rows of 64
    goldens::write(dense.path(), &json!({}), &[floats("signs.96.42".into(), &[96], &signs(96))]);
    std::fs::rename(dense.path().join("model.safetensors"), &side).unwrap();
    assert!(error().contains("has no signs for rows of 4 words"), "{}", error());
}
