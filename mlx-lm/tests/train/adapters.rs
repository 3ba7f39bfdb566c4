//! Adapter files: ours, PEFT's; several on one model.

use super::*;
use serde_json::json;

#[test]
fn adapters_come_back_from_disk_and_refuse_another_model() {
    let (dir, out, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let c = config(out.path(), 4);
    let mut m = fresh(dir.path(), &c);
    fit(&mut m, &c, 0);
    m.decoder.eval();
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
    // another rank is refused, and the model left as it was
    let mut qwen = model(&golden("qwen2"), other.path());
    let before = qwen.decoder.num_parameters();
    let mut bytes = std::fs::read(out.path().join("adapter_config.json")).unwrap();
    let text = String::from_utf8(std::mem::take(&mut bytes)).unwrap().replace("\"rank\": 4", "\"rank\": 5");
    std::fs::write(out.path().join("adapter_config.json"), text).unwrap();
    let e = train::load_adapters(&mut qwen.decoder, out.path()).unwrap_err().to_string();
    assert!(e.contains("lora_a") || e.contains("lora_b"), "{e}");
    assert_eq!(qwen.decoder.num_parameters(), before);
}

fn trained(dir: &Path, out: &Path, kind: FineTune, seed: u64, keys: Option<&[&str]>) -> Model {
    let keys = keys.map(|k| k.iter().map(|k| k.to_string()).collect());
    let p = LoraParameters { rank: 3, scale: 2.0, dropout: 0.0, keys };
    let c = LoraConfig { fine_tune_type: kind, seed, lora_parameters: p, ..config(out, 2) };
    let mut m = fresh(dir, &c);
    fit(&mut m, &c, 0);
    m
}

#[test]
fn adapters_go_to_pefts_files_and_back() {
    for (kind, keys) in [
        (FineTune::Lora, Some(&["self_attn.q_proj", "model.embed_tokens"][..])),
        (FineTune::Dora, Some(&["self_attn.v_proj"][..])),
        (FineTune::Lora, None),
    ] {
        let (dir, out, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut m = trained(dir.path(), out.path(), kind, 1, keys);
        train::save_peft(&mut m.decoder, "base", to.path()).unwrap();
        let config: Value =
            serde_json::from_slice(&std::fs::read(to.path().join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(3), &json!(6.0)));
        assert_eq!(config["use_dora"], kind == FineTune::Dora);
        let arrays = mlx::io::load_safetensors(to.path().join("adapter_model.safetensors")).unwrap().0;
        if keys.is_none_or(|k| k.contains(&"self_attn.q_proj")) {
            // PEFT's factors are [r, in] and [out, r]
            let a = &arrays["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"];
            assert_eq!(a.shape(), [3, 64]);
        }
        if keys.is_some() && kind == FineTune::Lora {
            assert_eq!(arrays["base_model.model.model.embed_tokens.lora_embedding_A"].shape(), [3, 199]);
        }
        let mut loaded = Model::load(dir.path()).unwrap();
        train::load_adapters(&mut loaded.decoder, to.path()).unwrap();
        assert_near(&logits(&loaded), &logits(&m), 1e-5);
    }
    // experts have no form there
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut moe = model(&golden("qwen3_moe"), dir.path());
    train::attach(&mut moe.decoder, FineTune::Lora, -1, &LoraParameters::default()).unwrap();
    assert!(train::save_peft(&mut moe.decoder, "base", to.path()).unwrap_err().to_string().contains("experts"));
}

#[test]
fn peft_files_that_cannot_be_meant_are_refused() {
    let (dir, out, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut m = trained(dir.path(), out.path(), FineTune::Lora, 1, Some(&["self_attn.q_proj"]));
    train::save_peft(&mut m.decoder, "base", to.path()).unwrap();
    let path = to.path().join("adapter_config.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value, part) in [
        ("alpha_pattern", json!({"q_proj": 3}), "alpha_pattern"),
        ("peft_type", json!("IA3"), "IA3"),
        ("r", json!(5), "shape"),
        ("r", Value::Null, "needs \"r\""),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        std::fs::write(&path, bad.to_string()).unwrap();
        let mut bare = Model::load(dir.path()).unwrap();
        let before = logits(&bare);
        let e = train::load_adapters(&mut bare.decoder, to.path()).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
        assert_eq!(logits(&bare), before);
    }
}

#[test]
fn alpha_means_alpha_over_rank_and_files_carry_the_scale() {
    let p: LoraParameters = serde_json::from_value(json!({"rank": 4, "alpha": 16})).unwrap();
    assert_eq!(p.scale, 4.0);
    // as Python reads it, a scale beside an alpha wins
    let p: LoraParameters = serde_json::from_value(json!({"rank": 4, "alpha": 16, "scale": 3.0})).unwrap();
    assert_eq!(p.scale, 3.0);
    assert_eq!(serde_json::to_value(&p).unwrap(), json!({"rank": 4, "dropout": 0.0, "scale": 3.0}));
}

#[test]
fn adapters_are_switched_on_one_resident_model() {
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let base = dirs[0].path();
    let sets = [("lora", FineTune::Lora, 1), ("dora", FineTune::Dora, 2), ("full", FineTune::Full, 3)];
    let mut want = vec![logits(&model(&golden("llama"), base))];
    for ((_, kind, seed), out) in sets.iter().zip(&dirs[1..]) {
        want.push(logits(&trained(base, out.path(), *kind, *seed, None)));
    }
    let mut m = Model::load(base).unwrap();
    let mut adapters = train::Adapters::default();
    for ((name, ..), out) in sets.iter().zip(&dirs[1..]) {
        adapters.load(&mut m.decoder, name, out.path()).unwrap();
        assert_eq!(logits(&m), want[0], "loading puts nothing on");
    }
    for i in [1, 3, 2, 0, 3, 1, 0] {
        let name = if i == 0 { None } else { Some(sets[i - 1].0) };
        adapters.switch(&mut m.decoder, name).unwrap();
        assert_eq!(adapters.active(), name);
        assert_near(&logits(&m), &want[i], 1e-6);
    }
    let e = adapters.switch(&mut m.decoder, Some("other")).unwrap_err().to_string();
    assert!(e.contains("other") && e.contains("dora"), "{e}");
    assert_eq!(logits(&m), want[0]);
}

#[test]
fn more_layers_than_there_are_cannot_be_trained() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = model(&golden("llama"), dir.path());
    let e = train::attach(&mut m.decoder, FineTune::Lora, 99, &LoraParameters::default()).unwrap_err().to_string();
    assert!(e.contains("99") && e.contains("4 layers"), "{e}");
}
