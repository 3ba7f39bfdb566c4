use std::borrow::Cow;
use std::fs;
use std::path::Path;

use mlx_lm::config::{Config, QuantMode, QuantParams, Quantization};
use mlx_lm::weights::{Checkpoint, Dtype, Tensor, geometry, inspect, save_shards};
use serde_json::{Value, json};

fn tensor(name: &str, dtype: Dtype, shape: &[usize]) -> Tensor<'static> {
    let bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
    Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes: Cow::Owned(bytes), parameters: None }
}

/// A packed weight of `[rows, cols]`.
fn packed(path: &str, rows: usize, cols: usize, p: QuantParams) -> Vec<Tensor<'static>> {
    let affine = p.mode == QuantMode::Affine;
    let scales = if affine { Dtype::BF16 } else { Dtype::U8 };
    let mut all = vec![
        tensor(&format!("{path}.weight"), Dtype::U32, &[rows, cols * p.bits / 32]),
        tensor(&format!("{path}.scales"), scales, &[rows, cols / p.group_size]),
    ];
    if affine {
        all.push(tensor(&format!("{path}.biases"), scales, &[rows, cols / p.group_size]));
    }
    all
}

fn pack(dir: &Path, config: Value, tensors: Vec<Tensor<'static>>) {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    save_shards(dir, tensors.into_iter().map(Ok), 1 << 30).unwrap();
}

#[test]
fn a_mixed_pack_is_reported_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = packed("a", 8, 128, QuantParams::affine(64, 4));
    tensors.extend(packed("b", 8, 128, QuantParams::affine(64, 4)));
    tensors.extend(packed("gate", 2, 128, QuantParams::affine(32, 8)));
    tensors.push(tensor("norm.weight", Dtype::BF16, &[128]));
    let quantization = json!({"group_size": 64, "bits": 4, "gate": {"group_size": 32, "bits": 8}});
    pack(dir.path(), json!({"model_type": "mistral", "architectures": ["X"], "quantization": quantization}), tensors);
    let i = inspect(dir.path()).unwrap();
    assert!(i.complete, "{:?}", i.problems);
    assert_eq!(
        (&i.model_type[..], &i.declared_model_type[..], i.parameters),
        ("llama", "mistral", 2 * 1024 + 256 + 128)
    );
    assert_eq!(i.bytes, 2 * (512 + 64) + (256 + 32) + 256);
    let counts: Vec<_> = i.quantization.iter().map(|q| (q.params.bits, q.params.group_size, q.tensors)).collect();
    assert_eq!(counts, [(4, 64, 2), (8, 32, 1)]);
    let json = serde_json::to_value(&i).unwrap();
    assert_eq!((&json["format"], &json["quantization"][1]["mode"]), (&json!("safetensors"), &json!("affine")));
    assert_eq!(json["dtypes"]["U32"], 2 * 512 + 256);
}

#[test]
fn disagreements_between_config_and_shapes_are_problems() {
    let params = QuantParams::affine(64, 4);
    let problems = |quantization: Value, tensors: Vec<Tensor<'static>>| {
        let dir = tempfile::tempdir().unwrap();
        pack(dir.path(), json!({"model_type": "llama", "quantization": quantization}), tensors);
        inspect(dir.path()).unwrap().problems
    };
    let declared = json!({"group_size": 64, "bits": 4});
    let mut no_scales = packed("a", 8, 128, params);
    no_scales.remove(1);
    let mut rows = packed("a", 8, 128, params);
    rows[1] = tensor("a.scales", Dtype::BF16, &[4, 2]);
    for (got, want) in [
        (problems(Value::Null, packed("a", 8, 128, params)), "the config declares no quantisation"),
        (problems(declared.clone(), vec![tensor("a.weight", Dtype::F32, &[2, 2])]), "no tensor is packed"),
        (problems(declared.clone(), no_scales), "tensor a.weight: is packed, but has no scales"),
        (problems(declared.clone(), rows), "tensor a.weight: weight [8, 16] and scales [4, 2] have different rows"),
        (
            problems(json!({"group_size": 64, "bits": 4, "a": false}), packed("a", 8, 128, params)),
            "says it is not quantised, but it is packed",
        ),
        (
            problems(
                json!({"group_size": 64, "bits": 4, "a": {"group_size": 64, "bits": 8}}),
                packed("a", 8, 128, params),
            ),
            "the config says affine 8-bit group 64, the shapes say affine 4-bit group 64",
        ),
    ] {
        assert!(got.iter().any(|p| p.contains(want)), "{got:?}");
    }
}

#[test]
fn every_mode_is_told_from_its_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let mut want = vec![];
    for group in [32, 64, 128] {
        for bits in [2, 3, 4, 5, 6, 8] {
            want.push(QuantParams::affine(group, bits));
        }
    }
    want.extend([QuantMode::Mxfp4, QuantMode::Mxfp8, QuantMode::Nvfp4].map(QuantMode::defaults));
    let tensors = want.iter().enumerate().flat_map(|(i, p)| packed(&format!("m{i}"), 2, 256, *p)).collect();
    pack(dir.path(), json!({"model_type": "llama", "quantization": {"group_size": 64, "bits": 4}}), tensors);
    let c = Checkpoint::open(dir.path()).unwrap();
    let q = c.config().unwrap().quantization().unwrap();
    for (i, p) in want.iter().enumerate() {
        assert_eq!(c.packed_as(&q, &format!("m{i}"), Some(256)).unwrap(), Some(*p));
        // without the width the hint decides
        let (w, s) = (c.info(&format!("m{i}.weight")).unwrap(), c.info(&format!("m{i}.scales")).unwrap());
        assert_eq!(geometry(w, s, p.mode == QuantMode::Affine, None, Some(*p)).unwrap(), *p);
    }
    let e = c.packed_as(&q, "m0", Some(512)).unwrap_err().to_string();
    assert!(e.starts_with("tensor m0.weight: no affine format has 64 bits per group over 512 columns"), "{e}");
    assert!(c.packed_as(&q, "zz", None).unwrap_err().to_string().starts_with("tensor zz.weight: missing"));
    assert!(matches!(q, Quantization::Mlx(_)));
    assert_eq!(Config::from_dir(dir.path()).unwrap().model_type(), "llama");
}

#[test]
fn weights_of_other_tools_are_counted_unpacked() {
    let count = |quantization: Value, tensors: Vec<Tensor<'static>>| {
        let dir = tempfile::tempdir().unwrap();
        pack(dir.path(), json!({"model_type": "llama", "quantization_config": quantization}), tensors);
        let i = inspect(dir.path()).unwrap();
        assert!(i.complete, "{:?}", i.problems);
        (i.declared_quantization, i.parameters)
    };
    let gptq = vec![
        tensor("a.qweight", Dtype::I32, &[16, 32]),
        tensor("a.qzeros", Dtype::I32, &[4, 4]),
        tensor("a.scales", Dtype::F16, &[4, 32]),
        tensor("a.g_idx", Dtype::I32, &[128]),
        tensor("norm.weight", Dtype::F16, &[8]),
    ];
    assert_eq!(count(json!({"quant_method": "gptq", "bits": 4}), gptq), ("gptq".into(), 128 * 32 + 8));
    let fp8 = vec![tensor("a.weight", Dtype::F8E4M3, &[4, 4]), tensor("a.weight_scale_inv", Dtype::F32, &[1, 1])];
    assert_eq!(count(json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), fp8), ("fp8".into(), 16));
    let oss = vec![
        tensor("e.gate_up_proj_blocks", Dtype::U8, &[2, 8, 1, 16]),
        tensor("e.gate_up_proj_scales", Dtype::U8, &[2, 8, 1]),
    ];
    assert_eq!(count(json!({"quant_method": "mxfp4"}), oss), ("mxfp4".into(), 512));
}
