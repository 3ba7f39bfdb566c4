//! What a model pack is, from headers alone: format, family, exact quantisation, sizes, completeness.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::checkpoint::{Checkpoint, Format};
use super::{Dtype, TensorInfo};
use crate::Result;
use crate::config::{QuantMode, QuantParams, Quantization};

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
    let checkpoint = Checkpoint::open(path)?;
    let config = checkpoint.config()?;
    let quantization = config.quantization()?;
    let mut problems = vec![];
    let mut counts: BTreeMap<QuantParams, (usize, u64)> = BTreeMap::new();
    let (mut parameters, mut bytes, mut dtypes) = (0u64, 0u64, BTreeMap::new());
    for info in checkpoint.infos() {
        bytes += info.nbytes() as u64;
        *dtypes.entry(info.dtype).or_default() += info.nbytes() as u64;
        let path = info.name.strip_suffix(".weight");
        match path.map(|p| resolve(&checkpoint, &quantization, p, info)) {
            Some(Ok(Some(params))) => {
                let n = (info.elements() * 32 / params.bits) as u64;
                parameters += n;
                let count = counts.entry(params).or_default();
                *count = (count.0 + 1, count.1 + n);
            }
            Some(Err(problem)) => problems.push(format!("{}: {problem}", info.name)),
            _ if sidecar(&checkpoint, &info.name) => {}
            _ => parameters += info.elements() as u64,
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

/// The scales or biases of a packed weight.
fn sidecar(checkpoint: &Checkpoint, name: &str) -> bool {
    let path = name.strip_suffix(".scales").or_else(|| name.strip_suffix(".biases"));
    path.is_some_and(|p| checkpoint.info(&format!("{p}.weight")).is_some_and(|w| w.dtype == Dtype::U32))
}

/// The parameters of a module from its shapes, checked against the config. `None`: it is not packed.
fn resolve(
    checkpoint: &Checkpoint,
    q: &Quantization,
    path: &str,
    weight: &TensorInfo,
) -> Result<Option<QuantParams>, String> {
    let listed = match q {
        Quantization::Mlx(q) => q.listed(path),
        _ => None,
    };
    let Some(scales) = checkpoint.info(&format!("{path}.scales")) else {
        return match (weight.dtype, q) {
            (Dtype::U32, Quantization::Mlx(_)) => Err("is packed, but has no scales".into()),
            _ => Ok(None),
        };
    };
    if weight.dtype != Dtype::U32 {
        return Ok(None);
    }
    let default = match q {
        Quantization::Mlx(q) => Some(q.default),
        Quantization::Foreign(f) => f.mlx(),
        Quantization::None => None,
    };
    let declared = match listed {
        Some(None) => return Err("the config says it is not quantised, but it is packed".into()),
        Some(Some(params)) => Some(params),
        None => None,
    };
    let has_biases = checkpoint.contains(&format!("{path}.biases"));
    let found = geometry(weight, scales, has_biases, declared.or(default))?;
    match declared {
        Some(d) if d != found => Err(format!("the config says {d}, the shapes say {found}")),
        _ => Ok(Some(found)),
    }
}

/// Group size, bits and mode from packed shapes: bits × group = 32 · words / groups, which `hint` splits.
///
/// Shapes give only the product; the row length would separate them. The hint's group size wins if it fits, then its
/// bits, then the one affine pair with the usual group sizes.
pub fn geometry(
    weight: &TensorInfo,
    scales: &TensorInfo,
    has_biases: bool,
    hint: Option<QuantParams>,
) -> Result<QuantParams, String> {
    let (Some(&words), Some(&groups)) = (weight.shape.last(), scales.shape.last()) else {
        return Err("weight or scales have no dimensions".into());
    };
    let rows = |t: &TensorInfo| t.shape[..t.shape.len() - 1].to_vec();
    if rows(weight) != rows(scales) {
        return Err(format!("weight {:?} and scales {:?} have different rows", weight.shape, scales.shape));
    }
    if groups == 0 || words == 0 || words * 32 % groups != 0 {
        return Err(format!("{words} words do not divide into {groups} groups"));
    }
    let product = words * 32 / groups;
    let fits = |p: &QuantParams| p.group_size * p.bits == product && p.check().is_ok();
    if !has_biases {
        let mode = QuantMode::ALL.into_iter().filter(|m| *m != QuantMode::Affine);
        let mut found: Vec<QuantParams> = mode.map(QuantMode::defaults).filter(fits).collect();
        // 4 x 32 only: mxfp4; nvfp4 is 4 x 16, mxfp8 8 x 32
        return found.pop().ok_or_else(|| format!("no mode without biases has {product} bits per group"));
    }
    let mut all: Vec<QuantParams> = vec![];
    for group in [64, 32, 128] {
        if product % group == 0 {
            all.push(QuantParams::affine(group, product / group));
        }
    }
    all.retain(fits);
    let hint = hint.filter(|h| h.mode == QuantMode::Affine);
    let by_hint = hint.and_then(|h| {
        let same = |p: &&QuantParams| p.group_size == h.group_size;
        let bits = |p: &&QuantParams| p.bits == h.bits;
        all.iter().find(|p| **p == h).or_else(|| all.iter().find(same)).or_else(|| all.iter().find(bits)).copied()
    });
    by_hint.or(all.first().copied()).ok_or_else(|| format!("no affine format has {product} bits per group"))
}
