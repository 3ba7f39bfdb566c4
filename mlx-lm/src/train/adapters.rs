//! Adapters on a decoder: attached by path, saved and loaded in Python's files.

use super::config::{FineTune, LoraConfig, LoraParameters};
use super::peft;
use crate::decoder::Decoder;
use crate::weights::write_atomic;
use crate::{Error, Result};
use mlx::nn::{LayerMut, ModuleExt, Path as Names};
use mlx::{Array, nn::Module};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// `adapter_config.json`: what is needed to attach the same adapters again; other keys are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdapterConfig {
    #[serde(default = "lora")]
    pub fine_tune_type: FineTune,
    #[serde(default = "all_layers")]
    pub num_layers: i32,
    #[serde(default)]
    pub lora_parameters: LoraParameters,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl AdapterConfig {
    /// What a run writes beside its adapters: all of its settings, as in Python.
    pub fn of(c: &LoraConfig) -> AdapterConfig {
        let all = serde_json::to_value(c).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default();
        let own = ["fine_tune_type", "num_layers", "lora_parameters"];
        AdapterConfig {
            fine_tune_type: c.fine_tune_type,
            num_layers: c.num_layers,
            lora_parameters: c.lora_parameters.clone(),
            other: all.into_iter().filter(|(k, _)| !own.contains(&k.as_str())).collect(),
        }
    }
}

fn lora() -> FineTune {
    FineTune::Lora
}
fn all_layers() -> i32 {
    -1
}

/// Which layers of a decoder a run adapts.
struct Targets<'a> {
    prefix: String,
    first: usize,
    keys: Option<&'a [String]>,
}

impl<'a> Targets<'a> {
    fn new(decoder: &Decoder, num_layers: i32, p: &'a LoraParameters) -> Self {
        let total = decoder.blueprint().layers.len();
        let first = if num_layers <= 0 { 0 } else { total.saturating_sub(num_layers as usize) };
        Targets { prefix: format!("{}.", decoder.blueprint().layers_path), first, keys: p.keys.as_deref() }
    }
    /// Layer number and path inside the layer.
    fn split<'p>(&self, path: &'p str) -> Option<(usize, &'p str)> {
        let (n, rest) = path.strip_prefix(&self.prefix)?.split_once('.')?;
        Some((n.parse().ok()?, rest))
    }
    fn takes(&self, path: &str) -> bool {
        let inside = self.split(path);
        match self.keys {
            None => inside.is_some_and(|(n, _)| n >= self.first),
            Some(keys) => {
                let relative = inside.is_some_and(|(n, rest)| n >= self.first && keys.iter().any(|k| k == rest));
                relative || keys.iter().any(|k| k == path)
            }
        }
    }
}

/// Freezes the model and puts fresh adapters on its targets, or, for a full fine-tune, unfreezes the last layers.
///
/// # Errors
/// Nothing matches, or DoRA is asked for on a layer that has none.
pub fn attach(decoder: &mut Decoder, kind: FineTune, num_layers: i32, p: &LoraParameters) -> Result<()> {
    p.check()?;
    let total = decoder.blueprint().layers.len();
    if num_layers > total as i32 {
        return Err(Error::Request(format!("num_layers {num_layers}: the model has only {total} layers")));
    }
    decoder.freeze();
    let targets = Targets::new(decoder, num_layers, p);
    if kind == FineTune::Full {
        let keep = |path: &str| targets.split(path).is_some_and(|(n, _)| n >= targets.first);
        decoder.unfreeze_where(keep);
        return Ok(());
    }
    let (mut count, mut refused) = (0, None);
    decoder.layers_mut(&mut Names::new(), &mut |path, layer| {
        if !targets.takes(path) || matches!(layer, LayerMut::MultiLinear(_)) {
            return;
        }
        count += 1;
        let (r, s, d) = (p.rank, p.scale, p.dropout);
        match (kind, layer) {
            (FineTune::Dora, LayerMut::Linear(l)) => l.add_dora(r, s, d),
            (FineTune::Dora, LayerMut::Embedding(l)) => l.add_dora(r, s, d),
            (FineTune::Dora, LayerMut::SwitchLinear(_) | LayerMut::MultiLinear(_)) => refused = Some(path.to_string()),
            (_, LayerMut::Linear(l)) => l.add_lora(r, s, d),
            (_, LayerMut::Embedding(l)) => l.add_lora(r, s, d),
            (_, LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l)) => l.add_lora(r, s, d),
        }
    });
    match (count, refused) {
        (_, Some(path)) => {
            Err(Error::Unsupported { what: "DoRA on", name: path, message: "experts take LoRA only".into() })
        }
        (0, _) => Err(Error::Request(format!("no layer matches the adapter keys {:?}", p.keys))),
        _ => Ok(()),
    }
}

/// The trained parameters as they are saved: adapters, or whole weights of a full fine-tune, under Python's names.
pub(super) fn trained(decoder: &Decoder) -> BTreeMap<String, Array> {
    let wrapper = &decoder.blueprint().wrapper;
    decoder.trainable().into_iter().map(|(n, a)| (format!("{wrapper}{n}"), a)).collect()
}

/// Names of a file to those of the decoder.
pub(super) fn own_names(decoder: &Decoder, arrays: Named) -> Named {
    let wrapper = decoder.blueprint().wrapper.as_str();
    arrays.into_iter().map(|(n, a)| (n.strip_prefix(wrapper).map_or(n.clone(), str::to_string), a)).collect()
}

/// Writes `adapters.safetensors` (or another name) and `adapter_config.json`, each whole or not at all.
pub fn save_adapters(decoder: &Decoder, dir: &Path, file: &str, config: &AdapterConfig) -> Result<()> {
    save_config(dir, config)?;
    save_arrays(&dir.join(file), &trained(decoder), BTreeMap::new())
}

/// Writes `adapter_config.json`.
pub(super) fn save_config(dir: &Path, config: &AdapterConfig) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    write_atomic(&dir.join("adapter_config.json"), &json(config)?)
}

fn json(config: &AdapterConfig) -> Result<Vec<u8>> {
    // keys in order, as Python writes them
    let value = serde_json::to_value(config).map_err(|e| Error::Request(e.to_string()))?;
    let sorted: BTreeMap<String, Value> = value.as_object().cloned().unwrap_or_default().into_iter().collect();
    serde_json::to_vec_pretty(&sorted).map_err(|e| Error::Request(e.to_string()))
}

/// Writes named arrays to a safetensors file through a temporary one.
pub(super) fn save_arrays(
    path: &Path,
    arrays: &BTreeMap<String, Array>,
    metadata: BTreeMap<String, String>,
) -> Result<()> {
    let mut bytes = Vec::new();
    let named = arrays.iter().map(|(k, a)| (k.as_str(), a));
    mlx::io::write_safetensors(&mut bytes, named, &metadata)?;
    write_atomic(path, &bytes)
}

/// Attaches the adapters of a directory: Python's files, or PEFT's.
///
/// # Errors
/// Before anything is attached: a missing file, an unknown target, a wrong shape or rank.
pub fn load_adapters(decoder: &mut Decoder, dir: &Path) -> Result<()> {
    let (config, arrays) = read_for(decoder, dir)?;
    // files may ask for more layers than there are, as in Python
    let layers = config.num_layers.min(decoder.blueprint().layers.len() as i32);
    attach(decoder, config.fine_tune_type, layers, &config.lora_parameters)?;
    decoder.update(arrays, false)?;
    decoder.eval();
    Ok(())
}

pub(super) type Named = BTreeMap<String, Array>;

/// What a directory of adapters holds, under the decoder's names; what does not fit the decoder is refused.
pub(super) fn read_for(decoder: &mut Decoder, dir: &Path) -> Result<(AdapterConfig, Named)> {
    let (mut config, arrays) = read(dir)?;
    let wrapper = decoder.blueprint().wrapper.clone();
    if let Some(keys) = &mut config.lora_parameters.keys {
        keys.iter_mut().for_each(|k| *k = k.strip_prefix(&wrapper).map_or(k.clone(), str::to_string));
    }
    let arrays = own_names(decoder, arrays);
    check_targets(decoder, &config, &arrays, dir)?;
    Ok((config, arrays))
}

/// What a directory of adapters holds, under Python's names.
fn read(dir: &Path) -> Result<(AdapterConfig, Named)> {
    let path = dir.join("adapter_config.json");
    let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let raw: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| Error::file(&path, format!("not a JSON object: {e}")))?;
    if raw.contains_key("peft_type") {
        return peft::read(&raw, dir);
    }
    let config = serde_json::from_value(Value::Object(raw)).map_err(|e| Error::file(&path, e.to_string()))?;
    let file = ["adapters.safetensors", "adapter.safetensors"].map(|n| dir.join(n));
    let file = file.iter().find(|f| f.exists()).ok_or_else(|| Error::file(&file[0], "missing"))?;
    Ok((config, mlx::io::load_safetensors(file)?.0.into_iter().collect()))
}

/// Compares names and shapes with what `attach` would make, before it does.
fn check_targets(decoder: &mut Decoder, c: &AdapterConfig, arrays: &Named, dir: &Path) -> Result<()> {
    let fail = |name: &str, m: String| Err(Error::tensor(name, format!("adapter of {}: {m}", dir.display())));
    let shapes: BTreeMap<String, Vec<i32>> =
        decoder.parameters().into_iter().map(|(n, a)| (n, a.shape().to_vec())).collect();
    if c.fine_tune_type == FineTune::Full {
        for (name, a) in arrays {
            match shapes.get(name) {
                Some(s) if s == a.shape() => {}
                Some(s) => return fail(name, format!("shape {:?}, the model has {s:?}", a.shape())),
                None => return fail(name, "the model has no such parameter".into()),
            }
        }
        return Ok(());
    }
    c.lora_parameters.check()?;
    let r = c.lora_parameters.rank;
    let mut expected: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    let targets = Targets::new(decoder, c.num_layers, &c.lora_parameters);
    decoder.layers_mut(&mut Names::new(), &mut |path, layer| {
        if !targets.takes(path) {
            return;
        }
        let (a, b, rows) = match layer {
            LayerMut::Linear(l) => (vec![l.in_features(), r], vec![r, l.out_features()], l.out_features()),
            LayerMut::Embedding(l) => (vec![l.count(), r], vec![r, l.dims()], l.count()),
            LayerMut::MultiLinear(_) => return,
            LayerMut::SwitchLinear(l) => {
                (vec![l.num_experts(), r, l.in_features()], vec![l.num_experts(), l.out_features(), r], 0)
            }
        };
        expected.insert(format!("{path}.lora_a"), a);
        expected.insert(format!("{path}.lora_b"), b);
        if c.fine_tune_type == FineTune::Dora {
            expected.insert(format!("{path}.m"), vec![rows]);
        }
    });
    for (name, a) in arrays {
        match expected.get(name) {
            None => return fail(name, "no such adapter parameter in this model".into()),
            Some(s) if s == a.shape() => {}
            Some(s) => return fail(name, format!("shape {:?}, expected {s:?}", a.shape())),
        }
    }
    match expected.keys().find(|n| !arrays.contains_key(*n)) {
        Some(missing) => fail(missing, "missing".into()),
        None => Ok(()),
    }
}
