//! JANG checkpoints, packed by a scalar loop, against the same model with the weights unpacked by another.

use crate::goldens::{self, Stored};
use mlx::nn::ModuleExt;
use mlx::{Array, Dtype};
use mlx_lm::Model;
use serde_json::{Value, json};
use std::path::Path;

const GROUP: usize = 64;

fn stored(name: &str, shape: &[usize], dtype: &'static str, bytes: Vec<u8>) -> Stored {
    Stored { name: name.into(), shape: shape.iter().map(|&d| d as i32).collect(), dtype, bytes }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Codes, scales, biases of a weight, and the weight that they stand for.
fn pack(weight: &[f32], bits: usize, group: usize) -> (Vec<u8>, Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut stream = vec![0u8; (weight.len() * bits).div_ceil(8)];
    let (mut scales, mut biases, mut dense) = (Vec::new(), Vec::new(), Vec::new());
    let top = (1u32 << bits) - 1;
    for (g, part) in weight.chunks(group).enumerate() {
        let (low, high) = part.iter().fold((f32::MAX, f32::MIN), |(l, h), w| (l.min(*w), h.max(*w)));
        let scale = (high - low) / top as f32;
        scales.push(scale);
        biases.push(low);
        for (i, w) in part.iter().enumerate() {
            let code = ((w - low) / scale).round().clamp(0.0, top as f32) as u32;
            dense.push(code as f32 * scale + low);
            for b in 0..bits {
                let at = (g * group + i) * bits + b;
                stream[at / 8] |= ((code >> b & 1) as u8) << (at % 8);
            }
        }
    }
    (stream, scales, biases, dense)
}

fn floats(t: &Stored) -> Vec<f32> {
    t.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The bits of a module; `None` stays dense.
type Bits<'a> = &'a dyn Fn(&str) -> Option<usize>;

/// Writes the packed model into `dir`, and the dense one that it stands for into `dense`.
fn write(case: &str, config: &Value, bits: Bits, names: [&str; 3], dir: &Path, dense: &Path) -> Vec<i32> {
    let c = goldens::all("families").into_iter().find(|c| c["case"] == case).unwrap();
    let (mut packed, mut plain) = (Vec::new(), Vec::new());
    for t in goldens::tensors(&c) {
        let module = t.name.strip_suffix(".weight").filter(|_| t.shape.len() > 1);
        let Some((module, bits)) = module.and_then(|m| Some((m.to_owned(), bits(m)?))) else {
            plain.push(stored(
                &t.name,
                &t.shape.iter().map(|&d| d as usize).collect::<Vec<_>>(),
                "F32",
                t.bytes.clone(),
            ));
            packed.push(t);
            continue;
        };
        let (stream, scales, biases, weight) = pack(&floats(&t), bits, GROUP);
        let at = |name: &str| format!("{module}.{name}");
        packed.push(stored(&at(names[0]), &[stream.len()], "U8", stream));
        packed.push(stored(&at(names[1]), &[scales.len()], "F32", bytes_of(&scales)));
        packed.push(stored(&at(names[2]), &[biases.len()], "F32", bytes_of(&biases)));
        plain.push(stored(&t.name, &t.shape.iter().map(|&d| d as usize).collect::<Vec<_>>(), "F32", bytes_of(&weight)));
    }
    goldens::write(dir, &c["config"], &packed);
    goldens::write(dense, &c["config"], &plain);
    std::fs::write(dir.join("jang_config.json"), config.to_string()).unwrap();
    goldens::ints(&c["prompt"])
}

fn logits(m: &Model, prompt: &[i32]) -> Vec<f32> {
    let ids = Array::from_slice(prompt, [1, prompt.len() as i32]);
    m.decoder.forward(&ids, &mut m.decoder.caches().unwrap()).astype(Dtype::Float32).to_vec::<f32>().unwrap()
}

fn agree(case: &str, config: Value, bits: Bits, names: [&str; 3]) -> Model {
    let (dir, dense) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let prompt = write(case, &config, bits, names, dir.path(), dense.path());
    let (m, want) = (Model::load(dir.path()).unwrap(), logits(&Model::load(dense.path()).unwrap(), &prompt));
    let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    let off = logits(&m, &prompt).iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= 2e-5 * largest, "{case}: off by {off} of {largest}");
    m
}

fn linear(module: &str) -> bool {
    module.contains("proj") || module.contains("lm_head") || module.contains("embed")
}

#[test]
fn streams_of_all_bits_give_the_logits_of_their_values() {
    const NAMES: [&str; 3] = ["weight", "scales", "biases"];
    for bits in [1, 2, 3, 4, 5, 6, 8] {
        let config = json!({"weight_format": "jang", "group_size": 64, "bits_default": bits});
        let m = agree("qwen3", config, &|m| linear(m).then_some(bits), NAMES);
        // nothing was unpacked while loading: codes (two bits at least) and eight bytes per group
        let held: usize = m.decoder.parameters().iter().filter(|(n, _)| linear(n)).map(|(_, a)| a.nbytes()).sum();
        let weights = 199 * 64 * 2 + 4 * (64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3);
        assert_eq!(held, weights * bits.max(2) / 8 + weights / GROUP * 8, "{bits} bits");
    }
}

#[test]
fn roles_have_their_own_bits_and_sides_their_published_names() {
    let roles = json!({"attention": 6, "routed_expert": 2, "embed_tokens": 4, "lm_head": 8, "shared_expert": 5});
    let config = json!({"weight_format": "jangtq", "profile": "JANG_2M", "group_size": 64, "bits_default": 3, "mxtq_bits": roles});
    let bits = |m: &str| {
        Some(match m {
            m if m.contains("attn") => 6,
            m if m.contains("switch_mlp") => 2,
            m if m.contains("embed") => 4,
            m if m.contains("lm_head") => 8,
            m if m.contains("shared_expert.") => 5,
            _ => return None,
        })
    };
    for names in [
        ["weight", "scales", "biases"],
        ["weight", "weight.scales", "weight.biases"],
        ["packed", "scales", "biases"],
        ["weight.packed", "weight_scales", "weight_biases"],
    ] {
        agree("qwen2_moe", config.clone(), &bits, names);
    }
    // experts one by one, as published
    let bits = |m: &str| if m.contains(".experts.") { Some(2) } else { m.contains("attn").then_some(6) };
    agree("qwen3_moe.hf", config, &bits, ["weight", "scales", "biases"]);
}

#[test]
fn what_bytes_and_declaration_do_not_agree_on_is_refused() {
    let declared = json!({"weight_format": "jang", "group_size": 64, "bits_default": 4});
    let q = "model.layers.1.self_attn.q_proj";
    let error = |config: &Value, change: &dyn Fn(&mut Vec<Stored>)| {
        let (dir, dense) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write("qwen3", config, &|m| linear(m).then_some(4), ["weight", "scales", "biases"], dir.path(), dense.path());
        // read the file back, change it
        let c = goldens::all("families").into_iter().find(|c| c["case"] == "qwen3").unwrap();
        let file = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let n = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&file[8..8 + n]).unwrap();
        let mut tensors: Vec<Stored> = header
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, t)| {
                let at = |i: usize| 8 + n + t["data_offsets"][i].as_u64().unwrap() as usize;
                let shape: Vec<usize> = goldens::ints(&t["shape"]).iter().map(|&d| d as usize).collect();
                let dtype = if t["dtype"] == "U8" { "U8" } else { "F32" };
                stored(name, &shape, dtype, file[at(0)..at(1)].to_vec())
            })
            .collect();
        change(&mut tensors);
        goldens::write(dir.path(), &c["config"], &tensors);
        Model::load(dir.path()).map(|_| ()).unwrap_err().to_string()
    };
    let get = |t: &[Stored], name: String| t.iter().position(|s| s.name == name).unwrap();
    let cases: [(&str, Value, &dyn Fn(&mut Vec<Stored>)); 7] = [
        (
            "says 6 bits for attention, the packed bytes say 4",
            json!({"weight_format": "jang", "group_size": 64, "bits_default": 4, "mxtq_bits": {"attention": 6}}),
            &|_| {},
        ),
        ("does not mention", json!({"weight_format": "jang", "group_size": 64, "bits_default": 3}), &|_| {}),
        ("not one of each per 128", json!({"weight_format": "jang", "group_size": 128, "bits_default": 4}), &|_| {}),
        ("without scales", declared.clone(), &|t| t.retain(|t| t.name != format!("{q}.scales"))),
        ("are ambiguous", declared.clone(), &|t| {
            t.push(stored(&format!("{q}.weight_scales"), &[64], "F32", vec![0; 256]))
        }),
        ("do not hold 4096 codes", declared.clone(), &|t| {
            let i = get(t, format!("{q}.weight"));
            t[i].bytes.truncate(2047);
            t[i].shape = vec![2047];
        }),
        ("not one of each per 64", declared.clone(), &|t| {
            let i = get(t, format!("{q}.biases"));
            t[i].bytes.truncate(4 * 63);
            t[i].shape = vec![63];
        }),
    ];
    for (want, config, change) in cases {
        let got = error(&config, change);
        assert!(got.contains(want), "{got:?} instead of {want:?}");
    }
}
