//! How a config says its weights are quantised: MLX's own `quantization` block, or one of the published foreign ones.
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::section::Section;
use crate::{Error, Result};

/// MLX's quantisation modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantMode {
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

impl QuantMode {
    pub const ALL: [QuantMode; 4] = [QuantMode::Affine, QuantMode::Mxfp4, QuantMode::Mxfp8, QuantMode::Nvfp4];

    /// The name as in config files.
    pub fn name(self) -> &'static str {
        match self {
            QuantMode::Affine => "affine",
            QuantMode::Mxfp4 => "mxfp4",
            QuantMode::Mxfp8 => "mxfp8",
            QuantMode::Nvfp4 => "nvfp4",
        }
    }
    /// The mode of a name; `None` when MLX has no such mode (`q4_0` is none).
    pub fn from_name(name: &str) -> Option<QuantMode> {
        QuantMode::ALL.into_iter().find(|m| m.name() == name)
    }
    /// Group size and bits that MLX takes when none are given.
    pub fn defaults(self) -> QuantParams {
        let (group_size, bits) = match self {
            QuantMode::Affine => (64, 4),
            QuantMode::Mxfp4 => (32, 4),
            QuantMode::Mxfp8 => (32, 8),
            QuantMode::Nvfp4 => (16, 4),
        };
        QuantParams { group_size, bits, mode: self }
    }
}

impl fmt::Display for QuantMode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One way to quantise: weights per scale, bits per weight, mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct QuantParams {
    pub group_size: usize,
    pub bits: usize,
    pub mode: QuantMode,
}

impl QuantParams {
    /// Affine with a group size and bits.
    pub fn affine(group_size: usize, bits: usize) -> Self {
        QuantParams { group_size, bits, mode: QuantMode::Affine }
    }
    /// MLX can compute with these numbers: affine takes groups 32/64/128 and bits 2,3,4,5,6,8, the others one pair.
    pub fn check(self) -> Result<Self, String> {
        let ok = match self.mode {
            QuantMode::Affine => matches!(self.group_size, 32 | 64 | 128) && matches!(self.bits, 2..=6 | 8),
            mode => self == mode.defaults(),
        };
        if ok {
            return Ok(self);
        }
        Err(match self.mode {
            QuantMode::Affine => format!(
                "group_size {} with {} bits is not supported: affine takes group sizes 32, 64, 128 and 2, 3, 4, 5, 6 or 8 bits",
                self.group_size, self.bits
            ),
            mode => {
                let d = mode.defaults();
                format!(
                    "{mode} takes group_size {} and {} bits, found {} and {}",
                    d.group_size, d.bits, self.group_size, self.bits
                )
            }
        })
    }
    /// The entry as config files spell it.
    pub fn to_json(self) -> Value {
        serde_json::json!({"group_size": self.group_size, "bits": self.bits, "mode": self.mode.name()})
    }
}

impl fmt::Display for QuantParams {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}-bit group {}", self.mode, self.bits, self.group_size)
    }
}

/// MLX's `quantization` block: a default, and per module path other parameters or `None` for "not quantised".
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantConfig {
    pub default: QuantParams,
    pub overrides: BTreeMap<String, Option<QuantParams>>,
}

impl QuantConfig {
    pub fn new(default: QuantParams) -> Self {
        QuantConfig { default, overrides: BTreeMap::new() }
    }
    /// What the config says of a module path (no `.weight`): `None` = nothing in particular, infer from geometry;
    /// `Some(None)` = not quantised.
    pub fn listed(&self, path: &str) -> Option<Option<QuantParams>> {
        self.overrides.get(path).copied()
    }
    /// The block as config files spell it.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if let Value::Object(default) = self.default.to_json() {
            map.extend(default);
        }
        for (path, params) in &self.overrides {
            map.insert(path.clone(), params.map_or(Value::Bool(false), QuantParams::to_json));
        }
        Value::Object(map)
    }
}

/// How the checkpoint is quantised, by its config.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantization {
    None,
    Mlx(QuantConfig),
    Foreign(ForeignQuant),
}

/// Quantisation formats of other tools.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ForeignQuant {
    /// AutoAWQ: `qweight`, `qzeros`, `scales`; the columns are interleaved.
    Awq {
        bits: usize,
        group_size: usize,
        zero_point: bool,
        version: String,
        skip: Vec<String>,
    },
    /// GPTQ: `qweight`, `qzeros`, `scales`, `g_idx`.
    Gptq {
        bits: usize,
        group_size: usize,
        sym: bool,
        desc_act: bool,
        checkpoint_format: String,
    },
    /// vLLM's container; `format` as `pack-quantized`; `weights` is the first group's weight block.
    CompressedTensors {
        format: String,
        bits: usize,
        group_size: Option<usize>,
        symmetric: bool,
        skip: Vec<String>,
    },
    /// E4M3 weights with `weight_scale_inv`: one scale per block, or one per tensor when `block` is `None`.
    Fp8 {
        block: Option<[usize; 2]>,
        scale_fmt: Option<String>,
        skip: Vec<String>,
    },
    /// gpt_oss blocks: `*_blocks` and `*_scales`.
    Mxfp4 {
        skip: Vec<String>,
    },
    Mxfp8 {
        skip: Vec<String>,
    },
    /// Packed ternary weights.
    Bitnet {
        /// The stored scale divides.
        inverse: bool,
        skip: Vec<String>,
    },
    /// NVIDIA ModelOpt; `algo` as `NVFP4`.
    ModelOpt {
        algo: String,
        group_size: Option<usize>,
        skip: Vec<String>,
    },
    /// JANG (`jang_config.json`): a u8 bit stream per tensor; the bits follow from a tensor's role.
    Jang {
        format: String,
        profile: String,
        group_size: usize,
        bits: usize,
        role_bits: BTreeMap<String, usize>,
    },
    /// Vector quantisation (`quant_method` `codebook`): codes of vectors in a book, tensor by tensor.
    Codebook {
        tensors: Vec<CodedTensor>,
    },
    /// A method this crate knows nothing of; loading refuses it.
    Unknown {
        method: String,
    },
}

/// One tensor of a codebook checkpoint: `weight[flat] = book[code[flat / D]][flat % D]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CodedTensor {
    /// The weight that it stands for.
    pub tensor: String,
    /// [out, in], of stacked experts [E, out, in].
    pub shape: Vec<usize>,
    /// The tensor of codes (u8, u16 or u32).
    pub codes: String,
    /// The tensor of vectors [entries, D].
    pub codebook: String,
}

impl ForeignQuant {
    /// The `quant_method`.
    pub fn method(&self) -> &str {
        match self {
            ForeignQuant::Awq { .. } => "awq",
            ForeignQuant::Gptq { .. } => "gptq",
            ForeignQuant::CompressedTensors { .. } => "compressed-tensors",
            ForeignQuant::Fp8 { .. } => "fp8",
            ForeignQuant::Mxfp4 { .. } => "mxfp4",
            ForeignQuant::Mxfp8 { .. } => "mxfp8",
            ForeignQuant::Bitnet { .. } => "bitnet",
            ForeignQuant::ModelOpt { .. } => "modelopt",
            ForeignQuant::Jang { .. } => "jang",
            ForeignQuant::Codebook { .. } => "codebook",
            ForeignQuant::Unknown { method } => method,
        }
    }
    /// Whether loading can bring these weights into dense or packed form.
    pub fn is_known(&self) -> bool {
        !matches!(self, ForeignQuant::Unknown { .. })
    }
    /// MLX parameters whose packed form these weights become without loss of what is stored; `None` when they are
    /// dequantised instead.
    pub fn mlx(&self) -> Option<QuantParams> {
        match self {
            ForeignQuant::Awq { bits, group_size, .. } | ForeignQuant::Gptq { bits, group_size, .. } => {
                Some(QuantParams::affine(*group_size, *bits))
            }
            ForeignQuant::CompressedTensors { format, bits, group_size, .. } => match format.as_str() {
                "nvfp4-pack-quantized" => Some(QuantMode::Nvfp4.defaults()),
                "mxfp4-pack-quantized" => Some(QuantMode::Mxfp4.defaults()),
                "pack-quantized" => Some(QuantParams::affine(group_size.unwrap_or(32), *bits)),
                _ => None,
            },
            ForeignQuant::Fp8 { block: Some([32, 32]), scale_fmt: Some(f), .. } if f == "ue8m0" => {
                Some(QuantMode::Mxfp8.defaults())
            }
            ForeignQuant::Mxfp4 { .. } => Some(QuantMode::Mxfp4.defaults()),
            ForeignQuant::Mxfp8 { .. } => Some(QuantMode::Mxfp8.defaults()),
            ForeignQuant::ModelOpt { algo, .. } if algo == "NVFP4" => Some(QuantMode::Nvfp4.defaults()),
            _ => None,
        }
    }
}

/// Reads `quantization`, else `quantization_config`.
pub(super) fn read(config: &Section) -> Result<Quantization> {
    if let Some(q) = config.opt_sub("quantization")? {
        return mlx(&q).map(Quantization::Mlx);
    }
    let Some(q) = config.opt_sub("quantization_config")? else { return Ok(Quantization::None) };
    match q.opt_str("quant_method")? {
        Some("bitnet") => {
            // the family of that name always multiplies, as in Python
            let divides =
                config.opt_str("model_type")? != Some("bitnet") && q.str_or("linear_class", "")? != "autobitlinear";
            let skip = q.opt_strings("modules_to_not_convert")?.unwrap_or_default();
            Ok(Quantization::Foreign(ForeignQuant::Bitnet { inverse: divides, skip }))
        }
        Some(method) => foreign(&q, method).map(Quantization::Foreign),
        None if q.has("quant_algo") || q.has("quantization") => foreign(&q, "modelopt").map(Quantization::Foreign),
        None if q.has("bits") => mlx(&q).map(Quantization::Mlx),
        None => Err(q.error("quant_method", "missing")),
    }
}

fn mlx(q: &Section) -> Result<QuantConfig> {
    let default = params(q)?;
    let mut overrides = BTreeMap::new();
    for (path, value) in q.map() {
        let entry = match value {
            Value::Bool(false) => None,
            Value::Bool(true) if path.contains('.') => Some(default),
            Value::Object(_) => Some(override_params(&q.sub(path)?)?),
            _ => continue,
        };
        overrides.insert(path.clone(), entry);
    }
    Ok(QuantConfig { default, overrides })
}

fn params(q: &Section) -> Result<QuantParams> {
    checked(q, QuantParams { group_size: q.usize("group_size")?, bits: q.usize("bits")?, mode: mode(q)? })
}

/// Of one module: what is not said is the default of its mode, as in Python, not of the model.
fn override_params(q: &Section) -> Result<QuantParams> {
    let d = mode(q)?.defaults();
    let (group_size, bits) = (q.usize_or("group_size", d.group_size)?, q.usize_or("bits", d.bits)?);
    checked(q, QuantParams { group_size, bits, ..d })
}

fn checked(q: &Section, found: QuantParams) -> Result<QuantParams> {
    found.check().map_err(|message| q.error("bits", message))
}

fn mode(q: &Section) -> Result<QuantMode> {
    let name = q.str_or("mode", "affine")?;
    QuantMode::from_name(name).ok_or_else(|| {
        let known = QuantMode::ALL.map(QuantMode::name).join(", ");
        q.error("mode", format!("unknown quantisation mode {name:?}; known: {known}"))
    })
}

fn foreign(q: &Section, method: &str) -> Result<ForeignQuant> {
    let skip = |key: &str| q.opt_strings(key).map(Option::unwrap_or_default);
    Ok(match method {
        "awq" => ForeignQuant::Awq {
            bits: q.usize_or("bits", 4)?,
            group_size: q.usize_or("group_size", 128)?,
            zero_point: q.flag_or("zero_point", true)?,
            version: q.str_or("version", "gemm")?.to_lowercase(),
            skip: skip("modules_to_not_convert")?,
        },
        "gptq" => ForeignQuant::Gptq {
            bits: q.usize_or("bits", 4)?,
            // -1: one group per row
            group_size: q.opt_i64("group_size")?.map_or(128, |g| usize::try_from(g).unwrap_or(0)),
            sym: q.flag_or("sym", true)?,
            desc_act: q.flag("desc_act")?,
            checkpoint_format: q.str_or("checkpoint_format", "gptq")?.to_owned(),
        },
        "compressed-tensors" => compressed(q)?,
        "fp8" | "fbgemm_fp8" => {
            let block = match q.opt_usizes("weight_block_size")? {
                None => None,
                Some(b) => Some(
                    <[usize; 2]>::try_from(b)
                        .ok()
                        .filter(|b| !b.contains(&0))
                        .ok_or_else(|| q.error("weight_block_size", "expected two positive integers"))?,
                ),
            };
            let scale_fmt = q.opt_str("scale_fmt")?.map(str::to_owned);
            ForeignQuant::Fp8 { block, scale_fmt, skip: skip("modules_to_not_convert")? }
        }
        "mxfp4" => ForeignQuant::Mxfp4 { skip: skip("modules_to_not_convert")? },
        "mxfp8" => ForeignQuant::Mxfp8 { skip: skip("modules_to_not_convert")? },
        "modelopt" | "modelopt_fp4" => {
            let inner = q.opt_sub("quantization")?;
            let q = inner.as_ref().unwrap_or(q);
            let skip = match q.opt_strings("exclude_modules")? {
                Some(list) => list,
                None => q.opt_strings("ignore")?.unwrap_or_default(),
            };
            ForeignQuant::ModelOpt {
                algo: q.str("quant_algo")?.to_owned(),
                group_size: q.opt_usize("group_size")?,
                skip,
            }
        }
        "jang" => {
            let mut role_bits = BTreeMap::new();
            if let Some(roles) = q.opt_sub("mxtq_bits")? {
                // a role may have bits by projection: the bytes tell them
                for (role, _) in roles.map().iter().filter(|(_, v)| !v.is_object()) {
                    role_bits.insert(role.clone(), roles.usize(role)?);
                }
            }
            ForeignQuant::Jang {
                format: q.str_or("weight_format", "jang")?.to_owned(),
                profile: q.str_or("profile", "")?.to_owned(),
                group_size: q.usize_or("group_size", 64)?,
                bits: q.usize_or("bits_default", 4)?,
                role_bits,
            }
        }
        "codebook" => {
            let format = q.str_or("format", "vq")?;
            if format != "vq" {
                return Err(q.error("format", format!("unknown codebook format {format:?}; known: vq")));
            }
            ForeignQuant::Codebook { tensors: coded(q)? }
        }
        other => ForeignQuant::Unknown { method: other.to_owned() },
    })
}

/// The descriptors of a codebook config.
fn coded(q: &Section) -> Result<Vec<CodedTensor>> {
    let Some(Value::Array(all)) = q.map().get("tensors") else {
        return Err(q.error("tensors", "missing or not a list"));
    };
    let one = |(i, v): (usize, &Value)| {
        let Value::Object(map) = v else { return Err(q.error("tensors", format!("entry {i} is not an object"))) };
        let d = Section::new(format!("quantization_config.tensors.{i}"), map.clone());
        let tensor = d.str("tensor")?.to_owned();
        let base = tensor.strip_suffix(".weight").unwrap_or(&tensor).to_owned();
        let shape = d.opt_usizes("shape")?.filter(|s| matches!(s.len(), 2 | 3));
        Ok(CodedTensor {
            shape: shape.ok_or_else(|| d.error("shape", "expected [out, in]"))?,
            codes: d.str_or("indices", &format!("{base}.codes"))?.to_owned(),
            codebook: d.str_or("codebook", &format!("{base}.codebook"))?.to_owned(),
            tensor,
        })
    };
    all.iter().enumerate().map(one).collect()
}

/// compressed-tensors: `format` and the weights of its config groups, which must agree.
fn compressed(q: &Section) -> Result<ForeignQuant> {
    let format = q.str("format")?.to_owned();
    let (mut bits, mut group_size, mut symmetric) = (None, None, true);
    if let Some(groups) = q.opt_sub("config_groups")? {
        for name in groups.map().keys() {
            let Some(w) = groups.sub(name)?.opt_sub("weights")? else { continue };
            let b = w.usize_or("num_bits", 4)?;
            if bits.is_some_and(|seen| seen != b) {
                return Err(w.error("num_bits", "groups of different bits are not supported"));
            }
            bits = Some(b);
            // -1: one scale per row
            group_size = w.opt_i64("group_size")?.and_then(|g| usize::try_from(g).ok());
            symmetric = w.flag_or("symmetric", true)?;
        }
    }
    let skip = q.opt_strings("ignore")?.unwrap_or_default();
    Ok(ForeignQuant::CompressedTensors { format, bits: bits.unwrap_or(4), group_size, symmetric, skip })
}

impl Quantization {
    /// MLX's own block; an error that names the method when the weights come from another tool and stay foreign.
    pub fn mlx(&self) -> Result<Option<QuantConfig>> {
        match self {
            Quantization::None => Ok(None),
            Quantization::Mlx(q) => Ok(Some(q.clone())),
            Quantization::Foreign(f) => match f.mlx() {
                Some(params) => Ok(Some(QuantConfig::new(params))),
                None => Err(Error::Unsupported {
                    what: "quantisation",
                    name: f.method().to_owned(),
                    message: "its weights have no packed form in MLX".into(),
                }),
            },
        }
    }
}
