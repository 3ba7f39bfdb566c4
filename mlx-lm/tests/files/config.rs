use std::path::{Path, PathBuf};

use mlx_lm::config::{Config, ForeignQuant, QuantMode, QuantParams, Quantization, RopeKind, parse_json};
use serde_json::{Value, json};

fn config(v: Value) -> Config {
    Config::from_json(v, "config.json").unwrap()
}

/// Golden cases, when the shared folder is there.
fn golden_configs() -> Vec<(String, Value)> {
    let dir = std::env::var_os("MLX_LM_GOLDENS_DIR").map(PathBuf::from);
    let dir = dir.unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens")).join("families");
    let mut all = vec![];
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let case = parse_json(&std::fs::read_to_string(&path).unwrap()).unwrap();
        all.push((case["case"].as_str().unwrap().to_owned(), case["config"].clone()));
    }
    all
}

#[test]
fn every_golden_config_parses_with_rope_and_quantisation() {
    let all = golden_configs();
    let mut kinds = std::collections::BTreeSet::new();
    for (case, value) in &all {
        let c = Config::from_json(value.clone(), case).unwrap();
        for layer in [None, Some("full_attention"), Some("sliding_attention")] {
            let rope = layer.map_or_else(|| c.rope(), |l| c.rope_for(l)).unwrap_or_else(|e| panic!("{case}: {e}"));
            kinds.insert(format!("{:?}", rope.kind).split([' ', '(']).next().unwrap().to_owned());
        }
        let declared = value.get("quantization").is_some() || value.get("quantization_config").is_some();
        let q = c.quantization().unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(declared, q != Quantization::None, "{case}");
        assert!(!matches!(q, Quantization::Foreign(ForeignQuant::Unknown { .. })), "{case}");
        assert!(c.tie_word_embeddings().is_ok() && c.dtype().is_ok(), "{case}");
    }
    if !all.is_empty() {
        assert!(all.len() >= 284);
        let want = ["Default", "Dynamic", "Linear", "Llama3", "LongRope", "Mrope", "NtkAlpha", "Yarn"];
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), want);
    }
}

#[test]
fn text_config_is_flattened_and_aliases_resolve() {
    let c = config(json!({"model_type": "llava", "hidden_size": 1, "tie_word_embeddings": true,
        "text_config": {"model_type": "mistral", "hidden_size": 64, "num_key_value_heads": null, "eos_token_id": [2, 3]}}));
    assert_eq!((c.model_type(), c.declared_model_type(), c.text_model_type()), ("mistral3", "llava", Some("llama")));
    assert_eq!(c.usize("hidden_size").unwrap(), 64);
    assert_eq!(c.usize_or("num_key_value_heads", || 7).unwrap(), 7);
    assert_eq!(c.eos_token_ids(), [2, 3]);
    assert_eq!(c.tie_word_embeddings().unwrap(), Some(true));
    let v3 = "BailingMoeV3ForCausalLM";
    for architectures in [json!([v3]), json!(["Other", v3]), json!(v3)] {
        let c = config(json!({"model_type": "bailing_hybrid", "architectures": architectures}));
        assert_eq!(c.model_type(), "bailing_moe_v3");
    }
    assert_eq!(
        config(json!({"model_type": "bailing_hybrid", "architectures": ["Other"]})).model_type(),
        "bailing_hybrid"
    );
}

#[test]
fn errors_name_the_key_and_what_was_found() {
    let c = config(
        json!({"model_type": "llama", "hidden_size": "wide", "layers": [1, "x"], "n": -1, "b": 2, "sub": {"k": 1.5}}),
    );
    for (got, want) in [
        (
            c.usize("hidden_size").unwrap_err(),
            "config: hidden_size: expected a non-negative integer, found a string \"wide\"",
        ),
        (c.usize("vocab_size").unwrap_err(), "config: vocab_size: missing"),
        (c.usizes("layers").unwrap_err(), "config: layers[1]: expected a non-negative integer, found a string \"x\""),
        (c.usize("n").unwrap_err(), "config: n: expected a non-negative integer, found a number -1"),
        (c.flag("b").unwrap_err(), "config: b: expected true or false, found a number 2"),
        (
            c.sub("sub").unwrap().usize("k").unwrap_err(),
            "config: sub.k: expected a non-negative integer, found a number 1.5",
        ),
        (c.sub("layers").unwrap_err(), "config: layers: expected an object, found a list [1,\"x\"]"),
        (Config::from_json(json!({}), "x").unwrap_err(), "config: model_type: missing"),
        (Config::from_json(json!([1]), "x").unwrap_err(), "x: expected a JSON object, found a list"),
    ] {
        assert_eq!(got.to_string(), want);
    }
}

#[test]
fn non_finite_numbers_are_read_in_both_spellings() {
    let v = parse_json(
        r#"{"model_type": "mamba2", "time_step_limit": [0.0, Infinity], "s": "NaN \" Infinity", "n": -Infinity}"#,
    )
    .unwrap();
    let c = config(v);
    assert_eq!(c.f64s("time_step_limit").unwrap(), [0.0, f64::INFINITY]);
    assert_eq!(c.str("s").unwrap(), "NaN \" Infinity");
    assert_eq!(c.f32("n").unwrap(), f32::NEG_INFINITY);
    let c = config(json!({"model_type": "x", "limit": [0.0, {"__float__": "Infinity"}]}));
    assert_eq!(c.f64s("limit").unwrap()[1], f64::INFINITY);
}

#[test]
fn generation_config_wins_for_eos_and_modelopt_side_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    put("config.json", r#"{"model_type": "llama", "eos_token_id": 2, "text_config": {"eos_token_id": 5}}"#);
    assert_eq!(Config::from_dir(dir.path()).unwrap().eos_token_ids(), [5]);
    put("generation_config.json", r#"{"eos_token_id": [7, 8]}"#);
    assert_eq!(Config::from_dir(dir.path()).unwrap().eos_token_ids(), [7, 8]);
    put("generation_config.json", "not json");
    put(
        "hf_quant_config.json",
        r#"{"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}"#,
    );
    let c = Config::from_dir(dir.path()).unwrap();
    assert_eq!(c.eos_token_ids(), [5]);
    let Quantization::Foreign(f) = c.quantization().unwrap() else { panic!() };
    assert_eq!(f.mlx(), Some(QuantMode::Nvfp4.defaults()));
    std::fs::remove_file(dir.path().join("hf_quant_config.json")).unwrap();
    put(
        "jang_config.json",
        r#"{"weight_format": "jangtq", "profile": "JANG_3M", "bits_default": 3, "mxtq_bits": {"attention": 6}}"#,
    );
    let Quantization::Foreign(f) = Config::from_dir(dir.path()).unwrap().quantization().unwrap() else { panic!() };
    let want = ForeignQuant::Jang {
        format: "jangtq".into(),
        profile: "JANG_3M".into(),
        group_size: 64,
        bits: 3,
        role_bits: [("attention".to_owned(), 6)].into(),
    };
    assert_eq!(f, want);
    put("config.json", "{\"model_type\": \"llama\",\n oops}");
    let message = Config::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.contains("config.json") && message.contains("line 2"), "{message}");
}

#[test]
fn rope_spellings_agree() {
    let scaling =
        json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    let with = |kind: &str, place: &str, theta_inside: bool| {
        let mut s = scaling.clone();
        s[kind] = "llama3".into();
        let mut v = json!({"model_type": "llama"});
        if theta_inside {
            s["rope_theta"] = 500000.into();
        } else {
            v["rope_theta"] = 500000.into();
        }
        v[place] = s;
        let rope = config(v).rope().unwrap();
        (rope.kind, rope.theta)
    };
    let want = with("type", "rope_scaling", false);
    assert_eq!(want.1, Some(500000.0));
    assert!(matches!(want.0, RopeKind::Llama3 { original_max: 32, .. }));
    assert_eq!(want, with("rope_type", "rope_scaling", false));
    assert_eq!(want, with("rope_type", "rope_parameters", true));
    assert_eq!(want, with("type", "rope_parameters", false));
}

#[test]
fn rope_differs_by_layer_type() {
    let c = config(json!({"model_type": "gemma4_text", "partial_rotary_factor": 0.5, "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}));
    let full = c.rope_for("full_attention").unwrap();
    assert_eq!(
        (full.theta, full.partial_rotary_factor, full.kind),
        (Some(1e6), Some(0.25), RopeKind::Proportional { factor: 1.0 })
    );
    let sliding = c.rope_for("sliding_attention").unwrap();
    assert_eq!((sliding.theta, sliding.partial_rotary_factor, sliding.kind), (Some(1e4), Some(0.5), RopeKind::Default));
    let c = config(json!({"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}}));
    assert_eq!(c.rope_for("sliding_attention").unwrap().kind, RopeKind::Default);
    assert_eq!(c.rope_for("sliding_attention").unwrap().theta, Some(1e4));
    assert_eq!(c.rope_for("full_attention").unwrap().kind, RopeKind::Linear { factor: 8.0 });
    let bad = config(json!({"model_type": "x", "rope_scaling": {"type": "spiral"}}));
    assert!(bad.rope().unwrap_err().to_string().starts_with("config: rope_scaling.rope_type: unknown kind \"spiral\""));
    let bad = config(json!({"model_type": "x", "rope_scaling": {"type": "yarn"}}));
    assert_eq!(bad.rope().unwrap_err().to_string(), "config: rope_scaling.factor: missing");
}

#[test]
fn quantisation_blocks_are_told_apart() {
    let q = |v: Value| config(json!({"model_type": "x", "quantization": v})).quantization();
    let Quantization::Mlx(m) =
        q(json!({"group_size": 64, "bits": 4, "a.b": {"group_size": 32, "bits": 8}, "c.d": false})).unwrap()
    else {
        panic!()
    };
    assert_eq!(m.default, QuantParams::affine(64, 4));
    assert_eq!(m.listed("a.b"), Some(Some(QuantParams::affine(32, 8))));
    assert_eq!((m.listed("c.d"), m.listed("e")), (Some(None), None));
    // what a module's entry leaves out is its mode's default (rwkv7's "bits" alone), not the model's
    let entries = json!({"group_size": 32, "bits": 4, "mode": "mxfp4", "a": {"bits": 8}, "b": {"mode": "nvfp4"}});
    let Quantization::Mlx(m) = q(entries).unwrap() else { panic!() };
    assert_eq!(m.listed("a"), Some(Some(QuantParams::affine(64, 8))));
    assert_eq!(m.listed("b"), Some(Some(QuantMode::Nvfp4.defaults())));
    for (bad, want) in [
        (json!({"bits": 4}), "group_size: missing"),
        (json!({"bits": 7, "group_size": 64}), "group_size 64 with 7 bits"),
        (json!({"bits": 4, "group_size": 16}), "group_size 16 with 4 bits"),
        (json!({"bits": 4, "group_size": 64, "mode": "mxfp4"}), "mxfp4 takes group_size 32"),
        (json!({"bits": 4, "group_size": 32, "mode": "q4_0"}), "known: affine, mxfp4, mxfp8, nvfp4"),
    ] {
        let message = q(bad).unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
    }
    let f = |v: Value| match config(json!({"model_type": "x", "quantization_config": v})).quantization().unwrap() {
        Quantization::Foreign(f) => f,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        f(json!({"quant_method": "fp8", "weight_block_size": [128, 128]})),
        ForeignQuant::Fp8 { block: Some([128, 128]), .. }
    ));
    let mx = f(json!({"quant_method": "fp8", "weight_block_size": [32, 32], "scale_fmt": "ue8m0"}));
    assert_eq!(mx.mlx(), Some(QuantMode::Mxfp8.defaults()));
    assert_eq!(f(json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true})).method(), "gptq");
    let ct = f(json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 64, "symmetric": false}}}}));
    assert_eq!(ct.mlx(), Some(QuantParams::affine(64, 4)));
    assert_eq!(f(json!({"quant_method": "bitsandbytes"})).method(), "bitsandbytes");
    assert!(Quantization::Foreign(f(json!({"quant_method": "bitnet"}))).mlx().is_err());
}

#[test]
fn random_damage_never_panics() {
    let text = r#"{"model_type": "gemma4", "eos_token_id": [1, 2], "rope_theta": 1e4, "max_position_embeddings": 128, "tie_word_embeddings": false,
        "text_config": {"model_type": "llama", "rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 8.0}, "sliding_attention": {"type": "longrope", "long_factor": [1, 2], "original_max_position_embeddings": 32}}},
        "quantization": {"group_size": 64, "bits": 4, "mode": "affine", "a.b": {"group_size": 32, "bits": 8}, "c": false},
        "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}, "x": {"__float__": "NaN"}, "y": Infinity}"#;
    let mut random = crate::random::Random(3);
    let words = ["null", "-1", "[]", "{}", "1e400", "Infinity", "\"\"", "18446744073709551616", "true", "[[1]]"];
    let mut parsed = 0;
    for _ in 0..5_000 {
        let mut bad = text.to_owned();
        for _ in 0..1 + random.below(3) {
            // a value, or some bytes, become something else
            let starts: Vec<usize> = bad.match_indices(": ").map(|(i, _)| i + 2).collect();
            let at = starts[random.below(starts.len())];
            let end = at + bad[at..].find([',', '}']).unwrap_or(0);
            bad.replace_range(at..end, words[random.below(words.len())]);
        }
        let Ok(v) = parse_json(&bad) else { continue };
        let Ok(c) = Config::from_json(v, "config.json") else { continue };
        parsed += 1;
        let _ = (
            c.rope(),
            c.rope_for("full_attention"),
            c.rope_for("sliding_attention"),
            c.quantization().map(|q| q.mlx()),
        );
        let _ = (c.dtype(), c.bos_token_id(), c.tie_word_embeddings(), c.strings("layer_types"));
    }
    assert!(parsed > 500, "{parsed}");
}
