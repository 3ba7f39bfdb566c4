//! Fusing: by hand, lost updates, what is refused.

use super::*;
use mlx::nn::{Adapter, Module};
use mlx::{Quant, QuantMode};
use mlx_lm::convert::{self, Recipe};

/// Gives one layer an adapter of rank 1; returns the layer's dense weight before.
fn rank_one(m: &mut Model, at: &str, a: f32, b: f32, scale: f32) -> Vec<f32> {
    let mut before = Vec::new();
    m.decoder.layers_mut(&mut mlx::nn::Path::new(), &mut |path, mut layer| {
        if path == at {
            before = layer.dense_weight().to_vec::<f32>().unwrap();
            let (o, i) = (layer.dense_weight().dim(0), layer.width());
            let ramp = |n: i32, by: f32| (0..n).map(|k| by * (k + 1) as f32).collect::<Vec<f32>>();
            let lora_a = Array::from_slice(&ramp(i, a), [i, 1]);
            let lora_b = Array::from_slice(&ramp(o, b), [1, o]);
            layer.set_adapter(Some(Adapter::lora(lora_a, lora_b, scale, 0.0)));
        }
    });
    before
}

fn weight(m: &mut Model, at: &str) -> Vec<f32> {
    let mut out = Vec::new();
    m.decoder.layers_mut(&mut mlx::nn::Path::new(), &mut |path, layer| {
        if path == at {
            out = layer.dense_weight().to_vec::<f32>().unwrap();
        }
    });
    out
}

const AT: &str = "model.layers.1.self_attn.k_proj";

#[test]
fn an_adapter_of_rank_one_adds_its_outer_product() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = model(&golden("llama"), dir.path());
    let before = rank_one(&mut m, AT, 0.01, -0.02, 3.0);
    let live = logits(&m);
    assert_eq!(train::fuse(&mut m.decoder, false).unwrap().fused, [AT]);
    let after = weight(&mut m, AT);
    let columns = 64;
    for (k, (new, old)) in after.iter().zip(&before).enumerate() {
        let (row, column) = (k / columns, k % columns);
        let want = old + 3.0 * (0.01 * (column + 1) as f32) * (-0.02 * (row + 1) as f32);
        assert!((new - want).abs() < 1e-5, "{row} {column}: {new} instead of {want}");
    }
    assert_near(&logits(&m), &live, 1e-4);
    assert!(train::fuse(&mut m.decoder, false).unwrap_err().to_string().contains("nothing to fuse"));
}

fn quantised(dir: &Path) -> Model {
    let mut m = model(&golden("llama"), dir);
    let q = Quant { group_size: 32, bits: 4, mode: QuantMode::Affine };
    convert::quantize(&mut m, &Recipe::Uniform(q)).unwrap();
    m
}

/// A weight of about 0.2 in 15 steps: 1e-5 is far below a step, 0.1 above.
#[test]
fn an_update_below_a_quantisation_step_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = quantised(dir.path());
    let before = rank_one(&mut m, AT, 1e-4, 1e-3, 1.0);
    let report = train::fuse(&mut m.decoder, false).unwrap();
    assert_eq!(report.lost, [AT]);
    assert_near(&weight(&mut m, AT), &before, 0.05);

    let mut m = quantised(dir.path());
    rank_one(&mut m, AT, 1e-2, 1e-2, 1.0);
    assert_eq!(train::fuse(&mut m.decoder, false).unwrap().lost, Vec::<String>::new());

    // dense, the small one survives
    let mut m = quantised(dir.path());
    let before = rank_one(&mut m, AT, 1e-4, 1e-3, 1.0);
    let live = logits(&m);
    let report = train::fuse(&mut m.decoder, true).unwrap();
    assert!(report.lost.is_empty());
    let change: f32 = weight(&mut m, AT).iter().zip(&before).map(|(a, b)| (a - b).abs()).sum();
    assert!(change > 0.0);
    assert_near(&logits(&m), &live, 1e-3);
}

/// Fused, saved in several shards, loaded again: packed layers stay packed, the index names every tensor.
#[test]
fn a_fused_model_comes_back_from_shards() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut m = quantised(dir.path());
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    rank_one(&mut m, AT, 1e-2, 1e-2, 1.0);
    train::fuse(&mut m.decoder, false).unwrap();
    let to = out.path().join("fused");
    let saved = convert::save(&mut m, None, dir.path(), &to, 20_000).unwrap();
    assert!(saved.files.len() > 3);
    let index: Value =
        serde_json::from_slice(&std::fs::read(to.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["weight_map"].as_object().unwrap().len(), m.decoder.parameters().len());
    assert_eq!(std::fs::read_to_string(to.join("chat_template.jinja")).unwrap(), "{{ messages }}");
    assert_near(&logits(&Model::load(&to).unwrap()), &logits(&m), 0.0);
    let e = convert::save(&mut m, None, dir.path(), &to, 20_000).unwrap_err().to_string();
    assert!(e.contains("not empty"), "{e}");
}

#[test]
fn rules_by_path_choose_the_form_of_each_layer() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = model(&golden("llama"), dir.path());
    let file = dir.path().join("rules.json");
    std::fs::write(
        &file,
        r#"{"*.0.*_proj": 8, "*.down_proj": false, "lm_head": {"mode": "mxfp4"}, "*embed*": {"bits": 6}}"#,
    )
    .unwrap();
    let default = Quant { group_size: 32, bits: 4, mode: QuantMode::Affine };
    let recipe = Recipe::from_file(&file, default).unwrap();
    let Recipe::Rules { rules, .. } = &recipe else { panic!("rules") };
    assert_eq!(rules.len(), 4);
    // a rule that fits nothing is refused: this model's head is its embedding
    let e = convert::quantize(&mut m, &recipe).unwrap_err().to_string();
    assert!(e.contains("lm_head") && e.contains("no layer"), "{e}");
    std::fs::write(&file, r#"{"*.0.*_proj": 8, "*.down_proj": false, "*embed*": {"bits": 6}}"#).unwrap();
    let mut m = model(&golden("llama"), dir.path());
    convert::quantize(&mut m, &Recipe::from_file(&file, default).unwrap()).unwrap();
    m.decoder.layers_mut(&mut mlx::nn::Path::new(), &mut |path, layer| {
        let want = match path {
            p if p.contains("layers.0.") => Some(8),
            p if p.ends_with("down_proj") => None,
            p if p.contains("embed") => Some(6),
            _ => Some(4),
        };
        assert_eq!(layer.quant().map(|q| q.bits), want, "{path}");
    });
    std::fs::write(&file, r#"{"*": {"bits": 7}}"#).unwrap();
    assert!(Recipe::from_file(&file, default).unwrap_err().to_string().contains("no form"));
}
