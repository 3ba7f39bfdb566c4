//! Against what Python mlx-lm recorded: gradients, optimizers, targets, conversions, adapter files.

use super::*;
use mlx::nn::Module;
use mlx::optim::{Adam, Optimizer};
use mlx_lm::convert::{self, Recipe};
use mlx_lm::decoder::{Decoder, LoadOptions};
use mlx_lm::train::Stepper;

fn more() -> Value {
    serde_json::from_str(include_str!("../data/train/more.json")).unwrap()
}

fn fnv(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[test]
fn losses_gradients_and_adam_steps_equal_pythons() {
    for r in records() {
        let what = format!("{} {}", r["case"], r["kind"]);
        let dir = tempfile::tempdir().unwrap();
        let (mut m, batch) = prepared(&r, dir.path());
        let wrapper = m.decoder.blueprint().wrapper.clone();
        let names: Vec<String> = m
            .decoder
            .trainable()
            .into_iter()
            .map(|(n, _)| format!("{wrapper}{n}"))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let want: Vec<String> = serde_json::from_value(r["names"].clone()).unwrap();
        assert_eq!(names, want, "{what}");
        let step = mx::nn::try_value_and_grad(|d: &Decoder, b: &Batch| train::cross_entropy(d, b));
        let ((loss, tokens), grads) = step(&mut m.decoder, &batch).unwrap();
        assert!((loss.item::<f32>().unwrap() - case::float(&r["loss"])).abs() < 1e-4, "{what}");
        assert_eq!(tokens.item::<f64>().unwrap(), r["tokens"].as_f64().unwrap(), "{what}");
        for (name, g) in &grads {
            let want = &r["grads"][format!("{wrapper}{name}")];
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

#[test]
fn optimizers_and_schedules_of_the_settings_equal_pythons() {
    let record = records().into_iter().find(|r| r["kind"] == "lora").unwrap();
    for run in more()["optimizers"].as_array().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let (mut m, batch) = prepared(&record, dir.path());
        let name = run["optimizer"].as_str().unwrap();
        // once under the optimizer's name, as Python has it
        let settings = serde_json::json!({
            "optimizer": name, "optimizer_config": {name: run["options"], "other": null}, "lr_schedule": run["schedule"],
            "learning_rate": 1e-2,
        });
        let c = LoraConfig::from_settings(settings.as_object().unwrap().clone()).unwrap();
        let mut stepper = Stepper::new(&m.decoder, &c, Rc::new(train::cross_entropy)).unwrap();
        for (i, want) in case::floats(&run["losses"]).iter().enumerate() {
            let (loss, _) = stepper.run(&mut m.decoder, &batch, true).unwrap();
            // a small epsilon makes AdamW's first steps signs of rounding errors in places
            let tolerance = if name == "adamw" { 5e-3 } else { 1e-4 };
            assert!((loss as f32 - want).abs() < tolerance, "{name} {i}: {loss} instead of {want}");
            let rate = run["rates"][i].as_f64().unwrap();
            assert!((stepper.learning_rate().unwrap() - rate).abs() <= 1e-6 * rate.max(1e-3), "{name} {i}: {rate}");
        }
    }
}

#[test]
fn an_option_that_an_optimizer_lacks_is_refused() {
    for (config, part) in [
        (serde_json::json!({"optimizer_config": {"adam": {"momentum": 0.9}}}), "adam has no option \"momentum\""),
        (serde_json::json!({"optimizer_config": {"betas": 3}}), "betas: 3 is not a pair"),
        (serde_json::json!({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-3]}}), "1 arguments"),
        (serde_json::json!({"lr_schedule": {"name": "none", "arguments": [1e-3]}}), "\"none\" is not known"),
    ] {
        let c = LoraConfig::from_settings(config.as_object().unwrap().clone()).unwrap();
        let e = train::optimizer(&c).err().unwrap().to_string();
        assert!(e.contains(part), "{e}");
    }
    let e = LoraConfig::from_settings(serde_json::json!({"leaning_rate": 1}).as_object().unwrap().clone());
    assert!(e.unwrap_err().to_string().contains("leaning_rate"));
}

/// Families of which Python adapts or packs something else: afm7's fused projections hold a list of factors, bitnet's
/// ternary layers take no adapter, dbrx has one layer per expert, gemma3n's stream coefficients are layers, talkie's head is
/// none, kimi_k3's mixing vectors are, and bailing_moe_v3 leaves most of its attention dense under the `model_type` of
/// bailing_hybrid. Of muse_spark and prism_hadamard_qwen35 Python adapts fewer layers, and packs fewer of the former: they
/// are classes of their own there.
const DIFFERENT: [&str; 9] =
    ["afm7", "bitnet", "dbrx", "gemma3n", "talkie", "kimi_k3", "bailing_moe_v3", "muse_spark", "prism_hadamard_qwen35"];

/// Number and hash of names, sorted.
fn summary(mut names: Vec<String>) -> Value {
    names.sort();
    names.dedup();
    serde_json::json!([names.len(), fnv(names.join("\n").as_bytes())])
}

/// Every family puts adapters where Python does, under the same names in files, and packs the layers that Python packs,
/// into the same forms.
#[test]
fn adapters_and_packed_layers_of_all_families_are_where_pythons_are() {
    let (more, mut seen, mut wrong) = (more(), 0, Vec::new());
    for c in case::all("families") {
        let name = c["case"].as_str().unwrap();
        if more["targets"].get(name).is_none() || DIFFERENT.contains(&name) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        case::write(dir.path(), &c["config"], &case::tensors(&c));
        let Ok(mut m) = Model::load(dir.path()) else { continue };
        let wrapper = m.decoder.blueprint().wrapper.clone();
        let p = LoraParameters { rank: 4, ..LoraParameters::default() };
        train::attach(&mut m.decoder, FineTune::Lora, -1, &p).unwrap();
        let targets = m.decoder.trainable().into_iter().map(|(n, _)| format!("{wrapper}{n}")).collect();
        let q = mlx::Quant { group_size: 32, bits: 4, mode: mlx::QuantMode::Affine };
        convert::quantize(&mut m, &Recipe::Uniform(q)).unwrap();
        let mut packed = Vec::new();
        m.decoder.layers_mut(&mut mlx::nn::Path::new(), &mut |path, layer| {
            packed.extend(layer.quant().map(|q| format!("{wrapper}{path} {} {}", q.bits, q.group_size)));
        });
        for (key, got) in [("targets", summary(targets)), ("packed", summary(packed))] {
            if got != more[key][name] {
                wrong.push(format!("{name} {key}: {got} instead of {}", more[key][name]));
            }
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60, "{seen}");
}

/// Bit for bit, names and index included.
#[test]
fn conversions_equal_pythons() {
    for run in more()["conversions"].as_array().unwrap() {
        let what = format!("{} {}", run["case"], run["options"]);
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let c = golden(run["case"].as_str().unwrap());
        case::write(dir.path(), &c["config"], &case::tensors(&c));
        let o = &run["options"];
        let dtype = o["dtype"].as_str().and_then(mx::Dtype::from_name);
        let mut m = Model::load_with(dir.path(), LoadOptions { dtype, ..LoadOptions::default() }).unwrap();
        let group_size = o["q_group_size"].as_i64().unwrap_or(64) as i32;
        if o["quantize"] == true {
            let bits = o["q_bits"].as_i64().unwrap_or(4) as i32;
            let default = mlx::Quant { group_size, bits, mode: mlx::QuantMode::Affine };
            let recipe = match o["quant_predicate"].as_str() {
                Some(name) => Recipe::mixed(name, group_size).unwrap(),
                None => Recipe::Uniform(default),
            };
            convert::quantize(&mut m, &recipe).unwrap();
        }
        if o["dequantize"] == true {
            convert::dequantize(&mut m);
        }
        let to = out.path().join("out");
        let saved = convert::save(&mut m, None, dir.path(), &to, convert::MAX_SHARD_BYTES).unwrap();
        assert_eq!(saved.total_size, run["index"]["total_size"].as_u64().unwrap(), "{what}");
        assert_eq!(saved.total_parameters, run["index"]["total_parameters"].as_u64().unwrap(), "{what}");
        let raw = std::fs::read(to.join("model.safetensors")).unwrap();
        let n = u64::from_le_bytes(raw[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&raw[8..8 + n]).unwrap();
        let mut tensors = serde_json::Map::new();
        for (name, t) in header.as_object().unwrap().iter().filter(|(n, _)| *n != "__metadata__") {
            let at = |i: usize| 8 + n + t["data_offsets"][i].as_u64().unwrap() as usize;
            tensors.insert(name.clone(), serde_json::json!([t["dtype"], t["shape"], fnv(&raw[at(0)..at(1)])]));
        }
        let want = run["tensors"].as_object().unwrap();
        for (name, t) in want {
            assert_eq!(tensors.get(name), Some(t), "{what} {name}");
        }
        assert_eq!(tensors.len(), want.len(), "{what}");
        let config: Value = serde_json::from_slice(&std::fs::read(to.join("config.json")).unwrap()).unwrap();
        let own = |block: &Value, path: &str| block.get(path).cloned().unwrap_or(block.clone());
        for name in want.keys().filter_map(|n| n.strip_suffix(".scales")) {
            for key in ["bits", "group_size"] {
                let (got, want) = (own(&config["quantization"], name), own(&run["quantization"], name));
                assert_eq!(got[key], want[key], "{what} {name}");
            }
        }
        assert_eq!(config.get("quantization").is_some(), run["quantization"].is_object(), "{what}");
    }
}

#[test]
fn adapters_that_python_trained_give_pythons_logits() {
    let (dir, r) = (tempfile::tempdir().unwrap(), more());
    let mut m = model(&golden("llama"), dir.path());
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/train/python_adapter");
    train::load_adapters(&mut m.decoder, &from).unwrap();
    let all = logits(&m);
    let want = case::floats(&r["adapter"]["logits"]);
    assert_near(&all[all.len() - want.len()..], &want, 1e-4);
    // what is written again is what was read
    let out = tempfile::tempdir().unwrap();
    let config: AdapterConfig =
        serde_json::from_slice(&std::fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    train::save_adapters(&m.decoder, out.path(), "adapters.safetensors", &config).unwrap();
    let read = |d: &Path| {
        let all = mlx::io::load_safetensors(d.join("adapters.safetensors")).unwrap().0;
        all.into_iter().map(|(n, a)| (n, a.to_vec::<f32>().unwrap())).collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(read(out.path()), read(&from));
    let json =
        |d: &Path| -> Value { serde_json::from_slice(&std::fs::read(d.join("adapter_config.json")).unwrap()).unwrap() };
    assert_eq!(json(out.path()), json(&from));
}
