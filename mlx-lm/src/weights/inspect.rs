//! What a model pack is, from headers alone: format, family, exact quantisation, sizes, completeness.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::checkpoint::{Checkpoint, Format};
use super::{Dtype, TensorInfo};
use crate::Result;
use crate::config::{ForeignQuant, QuantParams, Quantization};

/// The report of [`inspect`].
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    pub path: String,
    pub format: Format,
    /// The family's name after aliases.
    pub model_type: String,
    /// As the config spells it.
    pub declared_model_type: String,
    pub architectures: Vec<String>,
    /// Weights, packed ones unpacked; scales and biases of packed ones not counted.
    pub parameters: u64,
    /// Bytes as loaded (a GGUF's after conversion).
    pub bytes: u64,
    pub bytes_on_disk: u64,
    pub bits_per_weight: f64,
    pub tensors: usize,
    pub shards: Vec<String>,
    /// Bytes per element type.
    pub dtypes: BTreeMap<Dtype, u64>,
    /// What the config declares: `none`, `affine 4-bit group 64`, or the method of another tool.
    pub declared_quantization: String,
    /// What the packed shapes say, most frequent first.
    pub quantization: Vec<QuantCount>,
    /// Everything wrong with the pack; empty: it is sound as far as headers tell.
    pub problems: Vec<String>,
    pub complete: bool,
}

/// Packed tensors with equal parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantCount {
    #[serde(flatten)]
    pub params: QuantParams,
    pub tensors: usize,
    pub parameters: u64,
}

/// Looks at a model directory or file without reading weights.
///
/// Errors: what [`Checkpoint::open`] and the config refuse. Disagreements between the config and the packed geometry
/// are `problems`.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection> {
    inspect_checkpoint(&Checkpoint::open(path)?)
}

/// As [`inspect`], of an open checkpoint.
pub fn inspect_checkpoint(checkpoint: &Checkpoint) -> Result<Inspection> {
    let config = checkpoint.config()?;
    let quantization = config.quantization()?;
    let mut problems = vec![];
    let mut counts: BTreeMap<QuantParams, (usize, u64)> = BTreeMap::new();
    let (mut parameters, mut bytes, mut dtypes) = (0u64, 0u64, BTreeMap::new());
    for info in checkpoint.infos() {
        bytes += info.nbytes() as u64;
        *dtypes.entry(info.dtype).or_default() += info.nbytes() as u64;
        let path = info.name.strip_suffix(".weight");
        match path.map(|p| checkpoint.packed_as(&quantization, p, None)) {
            Some(Ok(Some(params))) => {
                let n = (info.elements() * 32 / params.bits) as u64;
                parameters += n;
                let count = counts.entry(params).or_default();
                *count = (count.0 + 1, count.1 + n);
            }
            Some(Err(problem)) => problems.push(problem.to_string()),
            _ if sidecar(checkpoint, &info.name) => {}
            _ => parameters += unpacked(&quantization, info),
        }
    }
    if let Quantization::Mlx(q) = &quantization {
        if counts.is_empty() {
            problems.push(format!("the config declares {}, but no tensor is packed", q.default));
        }
        for path in q.overrides.iter().filter(|(_, p)| p.is_some()).map(|(p, _)| p) {
            if !checkpoint.contains(&format!("{path}.scales")) {
                problems.push(format!("{path}: the config lists parameters, but it has no scales"));
            }
        }
    }
    if quantization == Quantization::None && !counts.is_empty() {
        problems.push("tensors are packed, but the config declares no quantisation".into());
    }
    let mut found: Vec<QuantCount> =
        counts.into_iter().map(|(params, (tensors, parameters))| QuantCount { params, tensors, parameters }).collect();
    found.sort_by_key(|c| std::cmp::Reverse(c.parameters));
    let files: BTreeSet<_> = checkpoint.files().into_iter().collect();
    Ok(Inspection {
        path: checkpoint.path().display().to_string(),
        format: checkpoint.format(),
        model_type: config.model_type().to_owned(),
        declared_model_type: config.declared_model_type().to_owned(),
        architectures: config.opt_strings("architectures")?.unwrap_or_default(),
        parameters,
        bytes,
        bytes_on_disk: files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum(),
        bits_per_weight: if parameters == 0 { 0.0 } else { bytes as f64 * 8.0 / parameters as f64 },
        tensors: checkpoint.len(),
        shards: files.iter().filter_map(|f| Some(f.file_name()?.to_string_lossy().into_owned())).collect(),
        dtypes,
        declared_quantization: declared(&quantization),
        quantization: found,
        complete: problems.is_empty(),
        problems,
    })
}

fn declared(q: &Quantization) -> String {
    match q {
        Quantization::None => "none".into(),
        Quantization::Mlx(q) => q.default.to_string(),
        Quantization::Foreign(f) => f.method().to_owned(),
    }
}

/// Weights a tensor stands for: other tools pack several into an element and keep scales beside.
fn unpacked(q: &Quantization, info: &TensorInfo) -> u64 {
    let n = info.elements() as u64;
    let Quantization::Foreign(f) = q else { return n };
    let leaf = info.name.rsplit('.').next().unwrap_or_default();
    match (f, leaf) {
        // counted by their groups: a stream of bytes does not tell its bits
        (ForeignQuant::Jang { group_size, .. }, leaf) if leaf.ends_with("scales") => n * *group_size as u64,
        (_, "qzeros" | "g_idx" | "scales" | "weight_scale" | "weight_scale_inv" | "weight_scale_2" | "input_scale") => {
            0
        }
        (ForeignQuant::Jang { .. }, leaf) if leaf.ends_with("biases") || info.dtype == Dtype::U8 => 0,
        (
            _,
            "weight_shape" | "weight_zero_point" | "weight_global_scale" | "input_global_scale" | "activation_scale",
        ) => 0,
        (ForeignQuant::Awq { bits, .. } | ForeignQuant::Gptq { bits, .. }, "qweight") => n * 32 / (*bits).max(1) as u64,
        (ForeignQuant::CompressedTensors { bits, .. }, "weight_packed") => {
            n * 8 * info.dtype.size() as u64 / (*bits).max(1) as u64
        }
        (ForeignQuant::Mxfp4 { .. }, leaf) if leaf.ends_with("_blocks") => n * 2,
        (ForeignQuant::Mxfp4 { .. }, leaf) if leaf.ends_with("_scales") => 0,
        (ForeignQuant::Bitnet { .. }, "weight") if info.dtype == Dtype::U8 => n * 4,
        (ForeignQuant::ModelOpt { .. }, "weight") if info.dtype == Dtype::U8 => n * 2,
        _ => n,
    }
}

/// The scales or biases of a packed weight.
fn sidecar(checkpoint: &Checkpoint, name: &str) -> bool {
    let path = name.strip_suffix(".scales").or_else(|| name.strip_suffix(".biases"));
    path.is_some_and(|p| checkpoint.info(&format!("{p}.weight")).is_some_and(|w| w.dtype == Dtype::U32))
}
