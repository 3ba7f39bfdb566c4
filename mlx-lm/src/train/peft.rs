//! Adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`, factors transposed, scale alpha / r.

use super::adapters::{AdapterConfig, Named, save_arrays};
use super::config::{FineTune, LoraParameters};
use crate::decoder::Decoder;
use crate::weights::write_atomic;
use crate::{Error, Result};
use mlx::nn::{Adapter, LayerMut, Module, Path as Names};
use serde_json::{Map, Value, json};
use std::path::Path;

const PREFIX: &str = "base_model.model.";
const FILE: &str = "adapter_model.safetensors";

/// PEFT's leaf names, and ours.
const LEAVES: [(&str, &str); 6] = [
    (".lora_A.weight", "lora_a"),
    (".lora_B.weight", "lora_b"),
    (".lora_embedding_A", "lora_a"),
    (".lora_embedding_B", "lora_b"),
    (".lora_magnitude_vector.weight", "m"),
    (".lora_magnitude_vector", "m"),
];

/// Reads PEFT's form: `base_model.model.{path}.lora_A.weight` [r, in], `lora_B` [out, r].
pub(super) fn read(raw: &Map<String, Value>, dir: &Path) -> Result<(AdapterConfig, Named)> {
    let path = dir.join("adapter_config.json");
    let fail = |m: String| Error::file(&path, m);
    match raw.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        other => return Err(fail(format!("peft_type {other:?} is not LORA"))),
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if raw.get(key).and_then(Value::as_object).is_some_and(|m| !m.is_empty()) {
            return Err(fail(format!("{key}: layers of different rank or alpha are not supported")));
        }
    }
    let number = |k: &str| raw.get(k).and_then(Value::as_f64).ok_or_else(|| fail(format!("needs {k:?}")));
    let flag = |k: &str| raw.get(k).and_then(Value::as_bool).unwrap_or(false);
    let (rank, alpha) = (number("r")?, number("lora_alpha")?);
    let scale = if flag("use_rslora") { alpha / rank.sqrt() } else { alpha / rank };
    let file = dir.join(FILE);
    if !file.exists() {
        return Err(Error::file(&file, "missing"));
    }
    let (mut arrays, mut keys) = (Named::new(), Vec::new());
    for (name, a) in mlx::io::load_safetensors(&file)?.0 {
        let inner = name.strip_prefix(PREFIX).unwrap_or(&name);
        let found = LEAVES.iter().find_map(|(theirs, ours)| Some((inner.strip_suffix(theirs)?, *ours)));
        let Some((target, leaf)) = found else {
            return Err(Error::tensor(name, format!("in {} is no LoRA factor", file.display())));
        };
        keys.push(target.to_string());
        arrays.insert(format!("{target}.{leaf}"), if leaf == "m" { a.flatten(0, -1) } else { a.t() });
    }
    keys.sort();
    keys.dedup();
    let p = LoraParameters { rank: rank as i32, dropout: 0.0, scale: scale as f32, keys: Some(keys) };
    let fine_tune_type = if flag("use_dora") { FineTune::Dora } else { FineTune::Lora };
    Ok((AdapterConfig { fine_tune_type, num_layers: -1, lora_parameters: p, other: Map::new() }, arrays))
}

/// Writes the adapters of a decoder in PEFT's form; `base` is the name of the model that they belong to.
///
/// # Errors
/// No adapter, adapters of different rank or scale, adapters of experts (PEFT has no such form); a failing write.
pub fn save_peft(decoder: &mut Decoder, base: &str, dir: &Path) -> Result<()> {
    let (mut arrays, mut targets, mut common) = (Named::new(), Vec::new(), None);
    let mut failed = None;
    decoder.layers_mut(&mut Names::new(), &mut |path, layer| {
        let (adapter, names) = match &layer {
            LayerMut::Linear(l) => (l.adapter(), ["lora_A.weight", "lora_B.weight"]),
            LayerMut::Embedding(l) => (l.adapter(), ["lora_embedding_A", "lora_embedding_B"]),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => {
                if l.adapter().is_some() {
                    failed = Some(Error::Unsupported {
                        what: "PEFT adapter on",
                        name: path.into(),
                        message: "PEFT has no form for experts in one tensor".into(),
                    });
                }
                return;
            }
        };
        let Some(a) = adapter else { return };
        let form = |a: &Adapter| (a.rank(), a.scale, a.dropout, a.m.is_some());
        if *common.get_or_insert(form(a)) != form(a) {
            failed = Some(Error::tensor(path, "its adapter differs from others in rank, scale or kind"));
        }
        targets.push(path.to_string());
        let at = |leaf: &str| format!("{PREFIX}{path}.{leaf}");
        arrays.insert(at(names[0]), mlx::contiguous(&a.lora_a.t()));
        arrays.insert(at(names[1]), mlx::contiguous(&a.lora_b.t()));
        if let Some(m) = &a.m {
            arrays.insert(at("lora_magnitude_vector.weight"), m.value().clone());
        }
    });
    if let Some(e) = failed {
        return Err(e);
    }
    let Some((rank, scale, dropout, dora)) = common else {
        return Err(Error::Request("no layer has an adapter: nothing to write".into()));
    };
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "bias": "none",
        "fan_in_fan_out": false, "inference_mode": true, "r": rank, "lora_alpha": scale * rank as f32,
        "lora_dropout": dropout, "use_dora": dora, "use_rslora": false, "target_modules": targets,
    });
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let text = serde_json::to_vec_pretty(&config).map_err(|e| Error::Request(e.to_string()))?;
    write_atomic(&dir.join("adapter_config.json"), &text)?;
    save_arrays(&dir.join(FILE), &arrays, [("format".to_string(), "pt".to_string())].into())
}
