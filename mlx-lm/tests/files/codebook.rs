//! Codebook checkpoints against the same model with the vectors written out by a scalar loop.

use crate::goldens::{self, Stored};
use mlx::nn::{Linear, ModuleExt};
use mlx::{Array, Dtype};
use mlx_lm::Model;
use serde_json::{Value, json};

fn stored(name: String, shape: &[usize], dtype: &'static str, bytes: Vec<u8>) -> Stored {
    Stored { name, shape: shape.iter().map(|&d| d as i32).collect(), dtype, bytes }
}

fn noise(i: usize, seed: usize) -> f32 {
    ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 1009.0 - 0.5
}

/// Tensors of qwen3, some of them coded; the descriptors; and the same tensors dense.
fn coded() -> (Vec<Stored>, Vec<Value>, Vec<Stored>, Value, Vec<i32>) {
    let c = goldens::all("families").into_iter().find(|c| c["case"] == "qwen3").unwrap();
    let (mut packed, mut descriptors, mut dense) = (Vec::new(), Vec::new(), Vec::new());
    for (seed, t) in goldens::tensors(&c).into_iter().enumerate() {
        let base = t.name.strip_suffix(".weight").filter(|_| t.shape.len() == 2).map(str::to_owned);
        // vectors of 8, 4 and 2; codes of one, two and four bytes
        let kind = match &base {
            Some(b) if b.contains("mlp.") => Some((8, 40, 1)),
            Some(b) if b.contains("embed") => Some((4, 300, 2)),
            Some(b) if b.contains("q_proj") => Some((2, 7, 4)),
            _ => None,
        };
        let (Some(base), Some((dim, entries, bytes))) = (base, kind) else {
            dense.push(stored(
                t.name.clone(),
                &t.shape.iter().map(|&d| d as usize).collect::<Vec<_>>(),
                "F32",
                t.bytes.clone(),
            ));
            packed.push(t);
            continue;
        };
        let shape: Vec<usize> = t.shape.iter().map(|&d| d as usize).collect();
        let n = shape[0] * shape[1] / dim;
        let book: Vec<f32> = (0..entries * dim).map(|i| noise(i, seed) * 0.4).collect();
        let codes: Vec<usize> = (0..n).map(|i| (i * 31 + i / 17 + seed) % entries).collect();
        let weight: Vec<u8> =
            (0..n * dim).flat_map(|flat| book[codes[flat / dim] * dim + flat % dim].to_le_bytes()).collect();
        dense.push(stored(t.name.clone(), &shape, "F32", weight));
        let dtype = ["", "U8", "U16", "", "U32"][bytes];
        let codes = codes.iter().flat_map(|c| (*c as u32).to_le_bytes()[..bytes].to_vec()).collect();
        packed.push(stored(format!("{base}.codes"), &[n], dtype, codes));
        packed.push(stored(
            format!("{base}.codebook"),
            &[entries, dim],
            "F32",
            book.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ));
        descriptors.push(json!({"tensor": t.name, "shape": shape}));
    }
    (packed, descriptors, dense, c["config"].clone(), goldens::ints(&c["prompt"]))
}

fn load(config: &Value, tensors: &[Stored]) -> mlx_lm::Result<Model> {
    let dir = tempfile::tempdir().unwrap();
    goldens::write(dir.path(), config, tensors);
    Model::load(dir.path())
}

fn with(config: &Value, descriptors: &[Value]) -> Value {
    let mut config = config.clone();
    config["quantization_config"] = json!({"quant_method": "codebook", "format": "vq", "tensors": descriptors});
    config
}

#[test]
fn coded_weights_give_the_logits_of_their_vectors() {
    let (packed, descriptors, dense, config, prompt) = coded();
    let logits = |m: &Model| {
        let ids = Array::from_slice(&prompt, [1, prompt.len() as i32]);
        m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).astype(Dtype::Float32).to_vec::<f32>().unwrap()
    };
    let m = load(&with(&config, &descriptors), &packed).unwrap();
    let (got, want) = (logits(&m), logits(&load(&config, &dense).unwrap()));
    let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= 2e-5 * largest, "off by {off} of {largest}");
    // what is held are codes and books
    let held: usize = m.decoder.parameters().iter().filter(|(n, _)| n.contains("mlp.")).map(|(_, a)| a.nbytes()).sum();
    assert_eq!(held, 4 * 3 * (64 * 128 / 8 + 40 * 8 * 4));
}

/// Experts one by one with a book each, and stacked ones that share a book; few and many pairs of tokens and experts.
#[test]
fn coded_experts_give_the_logits_of_their_vectors() {
    for (case, of) in [("qwen3_moe.hf", "mlp.experts."), ("qwen3_moe", "switch_mlp.")] {
        let c = goldens::all("families").into_iter().find(|c| c["case"] == case).unwrap();
        let (mut packed, mut dense, mut descriptors) = (Vec::new(), Vec::new(), Vec::new());
        for (seed, t) in goldens::tensors(&c).into_iter().enumerate() {
            let shape: Vec<usize> = t.shape.iter().map(|&d| d as usize).collect();
            let Some(base) = t.name.strip_suffix(".weight").filter(|b| b.contains(of)).map(str::to_owned) else {
                dense.push(stored(t.name.clone(), &shape, "F32", t.bytes.clone()));
                packed.push(t);
                continue;
            };
            let (dim, entries) = (4, 50);
            let n = shape.iter().product::<usize>() / dim;
            let book: Vec<f32> = (0..entries * dim).map(|i| noise(i, seed) * 0.4).collect();
            let code = |i: usize| (i * 31 + i / 17 + seed) % entries;
            let weight = (0..n * dim).flat_map(|i| book[code(i / dim) * dim + i % dim].to_le_bytes()).collect();
            dense.push(stored(t.name.clone(), &shape, "F32", weight));
            packed.push(stored(format!("{base}.codes"), &[n], "U8", (0..n).map(|i| code(i) as u8).collect()));
            let book = book.iter().flat_map(|v| v.to_le_bytes()).collect();
            packed.push(stored(format!("{base}.codebook"), &[entries, dim], "F32", book));
            descriptors.push(json!({"tensor": t.name, "shape": shape}));
        }
        let m = load(&with(&c["config"], &descriptors), &packed).unwrap();
        let plain = load(&c["config"], &dense).unwrap();
        // experts stay codes: a byte for four weights
        assert!(m.decoder.parameters().iter().any(|(n, a)| n.contains("switch_mlp") && a.dtype() == Dtype::Uint8));
        let prompt = goldens::ints(&c["prompt"]);
        for n in [1, 2, prompt.len()] {
            let logits = |m: &Model| {
                let ids = Array::from_slice(&prompt[..n], [1, n as i32]);
                m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).to_vec::<f32>().unwrap()
            };
            let (got, want) = (logits(&m), logits(&plain));
            let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 2e-5 * largest, "{case}, {n} tokens: off by {off} of {largest}");
        }
    }
}

#[test]
fn products_with_codes_equal_dense_ones_block_by_block() {
    // wide enough for several blocks of rows
    let (out, per_row, dim, entries) = (700, 4096, 2, 11);
    let codes: Vec<u8> = (0..out * per_row).map(|i| ((i * 13 + i / 29) % entries) as u8).collect();
    let book: Vec<f32> = (0..entries * dim).map(|i| noise(i, 3)).collect();
    let codes = Array::from_slice(&codes, [out as i32, per_row as i32]);
    let layer = Linear::codebook(codes, Array::from_slice(&book, [entries as i32, dim as i32]), None);
    assert_eq!((layer.in_features(), layer.out_features()), (8192, 700));
    let x = mlx::random::normal([3, 8192], Dtype::Float32, 0.0, 1.0, Some(&mlx::random::key(1)));
    let (got, want) = (layer.forward(&x), x.matmul(&layer.dense_weight().t()));
    assert!((got - want).abs().max(()).item::<f32>().unwrap() < 1e-3);
    assert!(layer.matrix().is_none());
}

#[test]
fn codes_that_do_not_fit_are_refused() {
    let (packed, descriptors, _, config, _) = coded();
    let first = "model.layers.0.mlp.up_proj";
    let at = |d: &[Value]| d.iter().position(|d| d["tensor"] == format!("{first}.weight")).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<Stored>, &mut Vec<Value>)| {
        let copy = |t: &Stored| Stored {
            name: t.name.clone(),
            shape: t.shape.clone(),
            dtype: t.dtype,
            bytes: t.bytes.clone(),
        };
        let (mut tensors, mut descriptors) = (packed.iter().map(copy).collect(), descriptors.clone());
        change(&mut tensors, &mut descriptors);
        load(&with(&config, &descriptors), &tensors).map(|_| ()).unwrap_err().to_string()
    };
    let find = |t: &mut Vec<Stored>, name: &str| t.iter().position(|t| t.name == format!("{first}.{name}")).unwrap();
    let code = refused(&|t, _| {
        let i = find(t, "codes");
        t[i].bytes[77] = 40;
    });
    assert!(code.contains("code 40 is not in a book of 40"), "{code}");
    let few = refused(&|t, _| {
        let i = find(t, "codes");
        t[i].bytes.pop();
        t[i].shape[0] -= 1;
    });
    assert!(few.contains("1023 codes") && few.contains("needs 1024"), "{few}");
    let shape = refused(&|_, d| {
        let i = at(d);
        d[i]["shape"] = json!([64, 128]);
    });
    assert!(shape.contains("up_proj.weight") && shape.contains("are no [128, 64]"), "{shape}");
    let both = refused(&|t, _| t.push(stored(format!("{first}.scales"), &[1], "F32", vec![0; 4])));
    assert!(both.contains("is coded and there as"), "{both}");
    let missing = refused(&|_, d| drop(d.remove(at(d))));
    assert!(missing.contains(first), "{missing}");
    let format = with(&config, &descriptors).to_string().replace("\"vq\"", "\"other\"");
    assert!(
        load(&serde_json::from_str(&format).unwrap(), &packed).map(|_| ()).unwrap_err().to_string().contains("other")
    );
}
