//! A GGUF file as a model: Hugging Face names, MLX's packed form, a config.
//!
//! Everything is decided from the headers; bytes are converted when asked for, one tensor part at a time.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::affine::{self, Form};
use super::arch::{ARCHS, Arch, MIXTRAL, NOT_WEIGHTS};
use super::config::{self, Facts};
use super::options::{GgufOptions, follows_hidden, plain};
use super::parse::{Gguf, GgufTensor};
use super::types::GgmlType;
use super::value::Value;
use crate::config::{QuantConfig, QuantMode, QuantParams};
use crate::weights::{Bytes, Dtype, TensorInfo};
use crate::{Error, Result};

/// An open GGUF model, possibly of several parts.
#[derive(Debug)]
pub struct GgufModel {
    parts: Vec<Gguf>,
    config: Json,
    outputs: BTreeMap<String, Output>,
}

/// One tensor as the loader sees it.
#[derive(Debug)]
struct Output {
    info: TensorInfo,
    /// Their rows are joined.
    sources: Vec<Source>,
    piece: Piece,
    /// Which of these rows it has, in order; `None`: all.
    rows: Option<Arc<[u32]>>,
}

#[derive(Clone, Debug)]
struct Source {
    part: usize,
    tensor: usize,
    /// Undo llama.cpp's row order for this many heads.
    heads: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Piece {
    Weight,
    Scales,
    Biases,
    /// Dense values, minus this offset (gemma's norms).
    Dense(f32),
    /// ln(-v): the decays of mamba, stored as -exp(A_log).
    LogOfMinus,
    /// k_b `[H, rank, nope]` and v_b `[H, v, rank]` put back together as kv_b `[H * (nope + v), rank]`.
    JoinKv,
}

impl GgufModel {
    /// Opens a file (or the first of `…-00001-of-0000n.gguf`) and maps its names and metadata.
    ///
    /// Errors: an architecture without table, a tensor the table does not know, a type that cannot be read.
    pub fn open(path: &Path, options: GgufOptions) -> Result<GgufModel> {
        let first = Gguf::open(path)?;
        let count = first.get("split.count").and_then(Value::as_usize).unwrap_or(1);
        let mut parts = vec![first];
        for i in 2..=count {
            parts.push(Gguf::open(sibling(path, i, count)?)?);
        }
        GgufModel::new(parts, options)
    }

    /// From parsed parts, the first with the metadata.
    pub fn new(parts: Vec<Gguf>, options: GgufOptions) -> Result<GgufModel> {
        let Some(first) = parts.first() else {
            return Err(Error::Request("a GGUF model has at least one file".into()));
        };
        let name = first.architecture()?.to_owned();
        let arch = arch(&name, &parts)?;
        let facts = Facts::new(&parts, &name);
        let mut map = config::build(&facts, &arch)?;
        let options = options.settled(&parts, &arch);
        let mut builder =
            Builder { parts: &parts, options, arch, map: &map, outputs: BTreeMap::new(), quant: BTreeMap::new() };
        builder.all()?;
        let Builder { outputs, quant, .. } = builder;
        if let Some(q) = quantization(quant) {
            map.insert("quantization".into(), q.to_json());
        }
        Ok(GgufModel { parts, config: Json::Object(map), outputs })
    }

    /// The config that the metadata amounts to, `quantization` included.
    pub fn config(&self) -> &Json {
        &self.config
    }
    pub fn parts(&self) -> &[Gguf] {
        &self.parts
    }
    /// Metadata of the first part.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.parts[0].metadata
    }
    pub fn infos(&self) -> impl Iterator<Item = &TensorInfo> {
        self.outputs.values().map(|o| &o.info)
    }

    /// The bytes of a tensor by its new name.
    pub fn bytes(&self, name: &str) -> Result<Bytes> {
        let fail = |message: String| Error::tensor(name, message);
        let output = self.outputs.get(name).ok_or_else(|| fail("is not in the file".into()))?;
        if let ([source], true) = (&output.sources[..], output.piece == Piece::Dense(0.0)) {
            let (raw, tensor) = self.raw(source).ok_or_else(|| fail("is outside of the file".into()))?;
            if output.rows.is_none() && source.heads.is_none() && plain(tensor.ty) == Some(output.info.dtype) {
                return Ok(raw);
            }
        }
        if let ([k, v], Piece::JoinKv) = (&output.sources[..], output.piece) {
            let pair = self.raw(k).zip(self.raw(v)).ok_or_else(|| fail("is outside of the file".into()))?;
            return join_kv(pair.0, pair.1, output.info.dtype).map(Bytes::from).map_err(fail);
        }
        let (mut all, mut total) = (Vec::with_capacity(output.info.nbytes()), 0);
        for source in &output.sources {
            let (raw, tensor) = self.raw(source).ok_or_else(|| fail("is outside of the file".into()))?;
            let mut bytes = match output.piece {
                Piece::Weight => affine::weight(tensor.ty, &raw),
                Piece::Scales => affine::scales(tensor.ty, &raw, output.info.dtype),
                Piece::Biases => affine::biases(tensor.ty, &raw, output.info.dtype),
                Piece::Dense(0.0) if plain(tensor.ty) == Some(output.info.dtype) => Ok(raw.to_vec()),
                Piece::Dense(offset) => dense(tensor.ty, &raw, output.info.dtype, |v| v - offset),
                Piece::LogOfMinus => dense(tensor.ty, &raw, output.info.dtype, |v| (-v).ln()),
                Piece::JoinKv => Err("has no parts to join".into()),
            }
            .map_err(|m| fail(format!("{m} (GGUF name {})", tensor.name)))?;
            if let Some(heads) = source.heads {
                let rows = tensor.shape.first().copied().unwrap_or(0);
                bytes = affine::unpermute(&bytes, rows, heads).map_err(fail)?;
            }
            total += tensor.shape.iter().rev().skip(1).product::<usize>();
            all.extend(bytes);
        }
        if let Some(rows) = &output.rows {
            let width = all.len().checked_div(total).unwrap_or(0);
            let row = |r: &u32| all.get(*r as usize * width..(*r as usize + 1) * width);
            let picked: Option<Vec<&[u8]>> = rows.iter().map(row).collect();
            all = picked.ok_or_else(|| fail(format!("wants rows that {total} do not have")))?.concat();
        }
        Ok(all.into())
    }

    fn raw(&self, source: &Source) -> Option<(Bytes, &GgufTensor)> {
        let part = self.parts.get(source.part)?;
        let tensor = part.tensors.get(source.tensor)?;
        Some((part.bytes(tensor)?, tensor))
    }
}

/// This is the first of several parts.
pub(in crate::weights) fn first_part(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().contains("-00001-of-"))
}

fn sibling(path: &Path, i: usize, count: usize) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let tail = format!("-00001-of-{count:05}.gguf");
    let stem = name.strip_suffix(&tail);
    let stem =
        stem.ok_or_else(|| Error::file(path, format!("is one of {count} parts: open the first, named …{tail}")))?;
    Ok(path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf")))
}

fn arch(name: &str, parts: &[Gguf]) -> Result<Arch> {
    let experts = parts[0].get(&format!("{name}.expert_count")).and_then(Value::as_usize).unwrap_or(0);
    if name == "llama" && experts > 0 {
        return Ok(MIXTRAL);
    }
    ARCHS.iter().find(|a| a.name == name).copied().ok_or_else(|| Error::Unsupported {
        what: "GGUF architecture",
        name: name.into(),
        message: format!("known: {}", ARCHS.iter().map(|a| a.name).collect::<Vec<_>>().join(", ")),
    })
}

fn dense(ty: GgmlType, raw: &[u8], dtype: Dtype, f: impl Fn(f32) -> f32) -> Result<Vec<u8>, String> {
    let mut values = vec![0f32; raw.len() / ty.block_bytes() * ty.block()];
    super::blocks::dequantize(ty, raw, &mut values)?;
    values.iter_mut().for_each(|v| *v = f(*v));
    let mut out = vec![0u8; values.len() * dtype.size()];
    affine::narrow(&values, dtype, &mut out)?;
    Ok(out)
}

/// Per head: the rows of k_b transposed, then those of v_b.
fn join_kv(k: (Bytes, &GgufTensor), v: (Bytes, &GgufTensor), dtype: Dtype) -> Result<Vec<u8>, String> {
    let values = |(raw, t): &(Bytes, &GgufTensor)| {
        let mut out = vec![0f32; t.elements()];
        super::blocks::dequantize(t.ty, raw, &mut out).map(|()| out)
    };
    let (kv, vv) = (values(&k)?, values(&v)?);
    let (&[heads, rank, nope], &[_, wide, _]) = (&k.1.shape[..], &v.1.shape[..]) else {
        return Err("k_b and v_b must have three dimensions".into());
    };
    let mut all = Vec::with_capacity(kv.len() + vv.len());
    for h in 0..heads {
        let head = &kv[h * rank * nope..(h + 1) * rank * nope];
        for i in 0..nope {
            all.extend((0..rank).map(|r| head[r * nope + i]));
        }
        all.extend_from_slice(&vv[h * wide * rank..(h + 1) * wide * rank]);
    }
    let mut out = vec![0u8; all.len() * dtype.size()];
    affine::narrow(&all, dtype, &mut out)?;
    Ok(out)
}

struct Builder<'a> {
    parts: &'a [Gguf],
    options: GgufOptions,
    arch: Arch,
    map: &'a serde_json::Map<String, Json>,
    outputs: BTreeMap<String, Output>,
    quant: BTreeMap<String, QuantParams>,
}

impl Builder<'_> {
    fn all(&mut self) -> Result<()> {
        for (p, part) in self.parts.iter().enumerate() {
            for (t, tensor) in part.tensors.iter().enumerate() {
                let name = &tensor.name;
                if NOT_WEIGHTS.contains(&name.as_str()) || self.arch.is_joined(name) {
                    continue;
                }
                if self.joins_kv() && (name.ends_with(".attn_k_b.weight") || name.ends_with(".attn_v_b.weight")) {
                    if let Some(prefix) = name.strip_suffix("attn_k_b.weight") {
                        self.join_kv(prefix)?;
                    }
                    continue;
                }
                if let Some((axis, parts)) = self.arch.split(name) {
                    self.split(p, t, axis, &parts)?;
                    continue;
                }
                let target = self.arch.rename(name).ok_or_else(|| {
                    Error::tensor(
                        name,
                        format!("is not known of architecture {} ({})", self.arch.name, part.path.display()),
                    )
                })?;
                let source = self.source(p, t, tensor)?;
                self.add(target, vec![source], None)?;
            }
        }
        self.join_rows()
    }

    /// Cuts a tensor [A, B, width] evenly along one of the first axes.
    fn split(&mut self, part: usize, tensor: usize, axis: usize, targets: &[String]) -> Result<()> {
        let info = &self.parts[part].tensors[tensor];
        let fail = || Error::tensor(&info.name, format!("{:?} does not divide into {}", info.shape, targets.len()));
        let &[a, b, width] = &info.shape[..] else { return Err(fail()) };
        let cut = if axis == 0 { a } else { b };
        if cut % targets.len() != 0 || u32::try_from(a * b).is_err() {
            return Err(fail());
        }
        let n = cut / targets.len();
        for (i, target) in targets.iter().enumerate() {
            let (rows, shape): (Vec<u32>, _) = match axis {
                0 => ((i * n * b..(i + 1) * n * b).map(|r| r as u32).collect(), [n * b, width].to_vec()),
                _ => {
                    let of = |m: usize| (m * b + i * n..m * b + (i + 1) * n).map(|r| r as u32);
                    ((0..a).flat_map(of).collect(), [a, n, width].to_vec())
                }
            };
            self.add(target.clone(), vec![Source { part, tensor, heads: None }], Some((rows.into(), shape)))?;
        }
        Ok(())
    }

    /// DeepSeek V2 keeps kv_b whole; V3 wants it split, as newer files have it.
    fn joins_kv(&self) -> bool {
        self.map.get("model_type").and_then(Json::as_str) == Some("deepseek_v2")
    }

    fn find(&self, name: &str) -> Result<(usize, usize, &GgufTensor)> {
        let place = |(p, part): (usize, &Gguf)| Some((p, part.tensors.iter().position(|t| t.name == name)?));
        let (p, t) = self.parts.iter().enumerate().find_map(place).ok_or_else(|| Error::tensor(name, "missing"))?;
        Ok((p, t, &self.parts[p].tensors[t]))
    }

    fn join_kv(&mut self, prefix: &str) -> Result<()> {
        let (k, v) = (self.find(&format!("{prefix}attn_k_b.weight"))?, self.find(&format!("{prefix}attn_v_b.weight"))?);
        let fit = match (&k.2.shape[..], &v.2.shape[..]) {
            (&[heads, rank, nope], &[h, wide, r]) if (heads, rank) == (h, r) => Some([heads * (nope + wide), rank]),
            _ => None,
        };
        let fail = || Error::tensor(&k.2.name, format!("{:?} does not fit attn_v_b {:?}", k.2.shape, v.2.shape));
        let shape = fit.ok_or_else(fail)?.to_vec();
        let name = self.arch.rename(&format!("{prefix}attn_kv_b.weight")).ok_or_else(fail)?;
        let source = |(part, tensor, _): (usize, usize, &GgufTensor)| Source { part, tensor, heads: None };
        let sources = [source(k), source(v)];
        let dtype = plain(k.2.ty).filter(|_| k.2.ty == v.2.ty).unwrap_or(self.options.dense);
        self.insert(name, dtype, shape, &sources, Piece::JoinKv, None)
    }

    /// Tensors that are one here and several in the file; layers that have none of the parts have no joined one.
    fn join_rows(&mut self) -> Result<()> {
        let layers = ["num_hidden_layers", "n_layers"].iter().find_map(|k| self.map.get(*k)?.as_u64()).unwrap_or(0);
        for i in 0..layers {
            for (to, from) in self.arch.joins {
                let there = |stem: &&str| self.find(&format!("blk.{i}.{stem}.weight")).is_ok();
                if !from.iter().any(there) {
                    continue;
                }
                let mut sources = vec![];
                for stem in *from {
                    let (p, t, tensor) = self.find(&format!("blk.{i}.{stem}.weight"))?;
                    sources.push(self.source(p, t, tensor)?);
                }
                let order = self.arch.order.and_then(|order| order(self.map)).map(|rows| {
                    let width = self.parts[sources[0].part].tensors[sources[0].tensor].shape.last().copied();
                    let shape = vec![rows.len(), width.unwrap_or(0)];
                    (rows.into(), shape)
                });
                self.add(format!("{}{i}.{to}.weight", self.arch.layers), sources, order)?;
            }
        }
        Ok(())
    }

    fn source(&self, part: usize, tensor: usize, info: &GgufTensor) -> Result<Source> {
        let stem = info.name.rsplit_once('.').map_or("", |(s, _)| s);
        let key = match stem.rsplit_once('.').map_or("", |(_, s)| s) {
            "attn_q" if self.arch.permuted => "attention.head_count",
            "attn_k" if self.arch.permuted => "attention.head_count_kv",
            _ => return Ok(Source { part, tensor, heads: None }),
        };
        let facts = Facts::new(self.parts, self.arch.name);
        let count = facts.get(key).or_else(|| facts.get("attention.head_count"));
        let heads = count.and_then(|v| match v.to_i64s() {
            // one count per layer
            Some(list) => {
                let layer: usize = info.name.strip_prefix("blk.")?.split('.').next()?.parse().ok()?;
                usize::try_from(*list.get(layer)?).ok()
            }
            None => v.as_usize(),
        });
        let heads = heads
            .filter(|h| *h > 0)
            .ok_or_else(|| Error::config(format!("{}.{key}", self.arch.name), "missing or not a count"))?;
        let rows = info.shape.first().copied().unwrap_or(0);
        if rows % (2 * heads) != 0 {
            return Err(Error::tensor(
                &info.name,
                format!("{rows} rows do not split into {heads} heads of an even size"),
            ));
        }
        Ok(Source { part, tensor, heads: Some(heads) })
    }

    /// Adds a tensor under its new name, or some of its rows and the shape they make: dense, or as weight, scales and
    /// biases.
    fn add(&mut self, name: String, sources: Vec<Source>, pick: Option<(Arc<[u32]>, Vec<usize>)>) -> Result<()> {
        let tensors: Vec<&GgufTensor> = sources.iter().map(|s| &self.parts[s.part].tensors[s.tensor]).collect();
        let first = tensors[0];
        let mut shape = first.shape.clone();
        if tensors.iter().any(|t| t.shape.get(1..) != first.shape.get(1..) || t.shape.len() != first.shape.len()) {
            return Err(Error::tensor(&name, "the tensors to join have different row lengths"));
        }
        if let (Some(rows), true) = (shape.first_mut(), tensors.len() > 1) {
            *rows = tensors.iter().map(|t| t.shape[0]).sum();
        }
        let rows = match pick {
            Some((rows, made)) => {
                let total: usize = tensors.iter().map(|t| t.shape.iter().rev().skip(1).product::<usize>()).sum();
                if rows.iter().any(|r| *r as usize >= total) {
                    return Err(Error::tensor(&name, format!("{total} rows in the file do not make {made:?}")));
                }
                shape = made;
                Some(rows)
            }
            None => None,
        };
        let same = tensors.iter().all(|t| t.ty == first.ty);
        let form = affine::form(first.ty).ok_or_else(|| Error::Unsupported {
            what: "GGUF tensor type",
            name: first.ty.name().into(),
            message: format!("tensor {}", first.name),
        })?;
        let path = name.strip_suffix(".weight");
        let norm = self.arch.norm_plus_one && first.name.ends_with("norm.weight");
        match (form, path) {
            (Form::Packed { params, scales }, Some(path)) if same && shape.len() >= 2 && !norm => {
                let scales = match params.mode {
                    QuantMode::Affine => self.options.scales_of(&first.name, scales),
                    _ => scales,
                };
                let cols = shape.pop().unwrap_or(0);
                let with = |n: usize| [&shape[..], &[n]].concat();
                let (words, groups) = (with(cols * params.bits / 32), with(cols / params.group_size));
                let path = path.to_owned();
                if params.mode == QuantMode::Affine {
                    let rows = rows.clone();
                    self.insert(format!("{path}.biases"), scales, groups.clone(), &sources, Piece::Biases, rows)?;
                }
                self.insert(format!("{path}.scales"), scales, groups, &sources, Piece::Scales, rows.clone())?;
                self.insert(name, Dtype::U32, words, &sources, Piece::Weight, rows)?;
                self.quant.insert(path, params);
                Ok(())
            }
            _ => {
                let mixer = ["mamba.", "linear_attn."].into_iter().find_map(|m| name.rsplit_once(m));
                let leaf = mixer.map_or("", |(_, leaf)| leaf);
                match (&shape[..], leaf) {
                    // convolutions: [C, K] -> [C, K, 1]
                    (&[_, _], "conv1d.weight") => shape.push(1),
                    (&[_, _], _) if name.ends_with("conv.conv.weight") => shape.push(1),
                    // llama.cpp's per-head and per-group shapes are flat here
                    (&[heads, 1], "A_log" | "D") => shape = vec![heads],
                    (&[groups, n], "norm.weight") => shape = vec![groups * n],
                    // a row of a matrix may have lost its first axis
                    (&[n], _) if name.ends_with("shared_expert_gate.weight") => shape = vec![1, n],
                    _ => {}
                }
                let kept = plain(first.ty).filter(|_| same && !(self.options.half && follows_hidden(&first.name)));
                let dtype = kept.unwrap_or(self.options.dense);
                let piece = match leaf {
                    "A_log" => Piece::LogOfMinus,
                    _ => Piece::Dense(if norm { 1.0 } else { 0.0 }),
                };
                self.insert(name, dtype, shape, &sources, piece, rows)
            }
        }
    }

    fn insert(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        sources: &[Source],
        piece: Piece,
        rows: Option<Arc<[u32]>>,
    ) -> Result<()> {
        let (part, tensor) = (&self.parts[sources[0].part], sources[0].tensor);
        let range = part.tensors[tensor].range.clone();
        let info = TensorInfo { name: name.clone(), dtype, shape, file: part.path.clone(), range };
        match self.outputs.insert(name.clone(), Output { info, sources: sources.to_vec(), piece, rows }) {
            None => Ok(()),
            Some(_) => Err(Error::tensor(name, "two tensors of the file have this name here")),
        }
    }
}

/// The most frequent parameters are the default, the others are listed.
fn quantization(found: BTreeMap<String, QuantParams>) -> Option<QuantConfig> {
    let mut counts: BTreeMap<QuantParams, usize> = BTreeMap::new();
    for params in found.values() {
        *counts.entry(*params).or_default() += 1;
    }
    let default = counts.into_iter().max_by_key(|(_, n)| *n)?.0;
    let mut config = QuantConfig::new(default);
    config.overrides = found.into_iter().filter(|(_, p)| *p != default).map(|(k, p)| (k, Some(p))).collect();
    Some(config)
}
