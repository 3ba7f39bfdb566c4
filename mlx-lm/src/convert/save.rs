//! A decoder as a model directory that Python mlx-lm loads too.

use crate::config::{QuantConfig, QuantParams};
use crate::decoder::Model;
use crate::tokenizer::Tokenizer;
use crate::weights::{Dtype, Saved, Tensor, save_shards, write_atomic};
use crate::{Error, Result};
use mlx::nn::{self, Module, ModuleExt};
use mlx::{Array, Quant, QuantMode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Files that travel with the weights.
const SIDECARS: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
];

/// Writes config, weights (in shards of at most `shard_bytes`, with an index) and the tokenizer of `source` to a new
/// directory.
///
/// # Errors
/// `out` exists and is not an empty directory; anything that cannot be read or written.
pub fn save(
    model: &mut Model,
    tokenizer: Option<&Tokenizer>,
    source: &Path,
    out: &Path,
    shard_bytes: u64,
) -> Result<Saved> {
    check_new(out)?;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    let config = config(model)?;
    write_atomic(
        &out.join("config.json"),
        &serde_json::to_vec_pretty(&config).map_err(|e| Error::Request(e.to_string()))?,
    )?;
    if source.is_dir() {
        for name in SIDECARS {
            let from = source.join(name);
            if from.is_file() {
                std::fs::copy(&from, out.join(name)).map_err(|e| Error::io(&from, e))?;
            }
        }
    } else if let Some(t) = tokenizer {
        t.save(out)?;
    }
    let quants = quants(model);
    let tensors = model.decoder.parameters().into_iter().map(|(name, a)| tensor(name, &a, &quants));
    save_shards(out, tensors, shard_bytes)
}

/// Refuses a place where something is already.
pub fn check_new(out: &Path) -> Result<()> {
    let empty = out.read_dir().is_ok_and(|mut d| d.next().is_none());
    if empty || !out.exists() {
        return Ok(());
    }
    Err(Error::file(out, "exists and is not empty: choose a new directory"))
}

/// How each layer is packed, by path.
fn quants(model: &mut Model) -> BTreeMap<String, Option<Quant>> {
    let mut out = BTreeMap::new();
    model.decoder.layers_mut(&mut nn::Path::new(), &mut |path, layer| {
        out.insert(path.to_string(), layer.quant());
    });
    out
}

fn params(q: Quant) -> QuantParams {
    use crate::config::QuantMode as M;
    let mode = match q.mode {
        QuantMode::Affine => M::Affine,
        QuantMode::Mxfp4 => M::Mxfp4,
        QuantMode::Mxfp8 => M::Mxfp8,
        QuantMode::Nvfp4 => M::Nvfp4,
    };
    QuantParams { group_size: q.group_size as usize, bits: q.bits as usize, mode }
}

/// The config with a `quantization` block that says what the weights are now: the most common form, exceptions by path.
fn config(model: &mut Model) -> Result<Value> {
    let mut raw = model.config.raw().clone();
    for key in ["quantization", "quantization_config", "vision_config"] {
        raw.remove(key);
    }
    let quants = quants(model);
    let mut counts: BTreeMap<QuantParams, usize> = BTreeMap::new();
    quants.values().flatten().for_each(|q| *counts.entry(params(*q)).or_default() += 1);
    if let Some((default, _)) = counts.iter().max_by_key(|(_, n)| **n) {
        let mut block = QuantConfig::new(*default);
        for (path, q) in &quants {
            match q.map(params) {
                Some(p) if p != *default => drop(block.overrides.insert(path.clone(), Some(p))),
                _ => {}
            }
        }
        raw.insert("quantization".into(), block.to_json());
        raw.insert("quantization_config".into(), block.to_json());
    }
    Ok(Value::Object(raw))
}

fn tensor(name: String, a: &Array, quants: &BTreeMap<String, Option<Quant>>) -> Result<Tensor<'static>> {
    use mlx::Dtype as D;
    let dtype = match a.dtype() {
        D::Bool => Dtype::Bool,
        D::Uint8 => Dtype::U8,
        D::Uint16 => Dtype::U16,
        D::Uint32 => Dtype::U32,
        D::Uint64 => Dtype::U64,
        D::Int8 => Dtype::I8,
        D::Int16 => Dtype::I16,
        D::Int32 => Dtype::I32,
        D::Int64 => Dtype::I64,
        D::Float16 => Dtype::F16,
        D::Bfloat16 => Dtype::BF16,
        D::Float32 => Dtype::F32,
        D::Float64 => Dtype::F64,
        D::Complex64 => Dtype::C64,
    };
    let (module, leaf) = name.rsplit_once('.').unwrap_or(("", &name));
    let parameters = quants.get(module).copied().flatten().map(|q| match leaf {
        "weight" => a.size() as u64 * 32 / q.bits as u64,
        "scales" | "biases" => 0,
        _ => a.size() as u64,
    });
    let shape = a.shape().iter().map(|&d| d as usize).collect();
    Ok(Tensor { shape, dtype, bytes: a.to_bytes()?.into(), parameters, name })
}
