//! [`Config`]: the file, flattened, with the values every family needs under one name.
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json::{kind, read};
use super::quant::{self, Quantization};
use super::rope::{self, RopeConfig, RopeKind};
use super::section::Section;
use crate::{Error, Result};

/// A normalised `config.json`. Dereferences to the flattened [`Section`]: keys of `text_config` (or `llm_config`,
/// `language_config`) override top-level ones, except `model_type`, which stays the wrapper's.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    raw: Map<String, Value>,
    flat: Section,
    model_type: String,
    text_model_type: Option<String>,
    eos: Vec<u32>,
}

impl Deref for Config {
    type Target = Section;
    fn deref(&self) -> &Section {
        &self.flat
    }
}

const TEXT_KEYS: [&str; 3] = ["text_config", "llm_config", "language_config"];

/// `model_type` values that another family serves (Python: MODEL_REMAPPING).
const ALIASES: [(&str, &str); 12] = [
    ("mistral", "llama"),
    ("llava", "mistral3"),
    ("phi-msft", "phixtral"),
    ("falcon_mamba", "mamba"),
    ("joyai_llm_flash", "deepseek_v3"),
    ("kimi_k2", "deepseek_v3"),
    ("qwen2_5_vl", "qwen2_vl"),
    ("minimax_m2", "minimax"),
    ("iquestcoder", "llama"),
    ("xverse", "llama"),
    ("gemma4_unified", "gemma4"),
    ("deepseek_v41_text", "deepseek_v41"),
];

impl Config {
    /// Reads `config.json` of a model directory, with the eos ids of `generation_config.json` (they win, as in
    /// Python) and the quantisation of `hf_quant_config.json` or `jang_config.json` (when the config has none).
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Config> {
        let dir = dir.as_ref();
        let path = dir.join("config.json");
        let mut map = read(&path)?;
        let generation = dir.join("generation_config.json");
        if generation.is_file() {
            // Python ignores a file that does not parse; a broken file is worth a word here
            match read(&generation) {
                Ok(g) => {
                    if let Some(eos) = g.get("eos_token_id").filter(|v| !v.is_null()) {
                        map.insert("eos_token_id".into(), eos.clone());
                        map.insert("__eos_override__".into(), Value::Bool(true));
                    }
                }
                Err(e) => tracing::warn!("{e}; ignored"),
            }
        }
        if !map.contains_key("quantization") && !map.contains_key("quantization_config") {
            for (name, method) in [
                ("hf_quant_config.json", "modelopt"),
                ("jang_config.json", "jang"),
                ("codebook_config.json", "codebook"),
            ] {
                let side = dir.join(name);
                if side.is_file() {
                    let mut q = read(&side)?;
                    if let Some(Value::Object(inner)) = q.remove("quantization") {
                        q = inner;
                    }
                    q.insert("quant_method".into(), method.into());
                    map.insert("quantization_config".into(), Value::Object(q));
                    break;
                }
            }
        }
        Config::from_json(Value::Object(map), path)
    }

    /// Normalises a parsed config; `path` is only for messages.
    pub fn from_json(value: Value, path: impl AsRef<Path>) -> Result<Config> {
        let path = path.as_ref().to_path_buf();
        let Value::Object(mut raw) = value else {
            return Err(Error::file(path, format!("expected a JSON object, found {}", kind(&value))));
        };
        let eos_wins = raw.remove("__eos_override__").is_some();
        let top = Section::new("", raw);
        let declared = top.str("model_type")?.to_owned();
        let architectures = match top.get("architectures") {
            Some(Value::String(one)) => vec![one.clone()],
            _ => top.opt_strings("architectures")?.unwrap_or_default(),
        };

        let mut flat = Section::new("", top.map().clone());
        let mut text_model_type = None;
        for key in TEXT_KEYS {
            let Some(text) = top.opt_sub(key)? else { continue };
            text_model_type = text.opt_str("model_type")?.map(|t| alias(t).to_owned());
            flat.map_mut().remove(key);
            for (k, v) in text.map() {
                let keep = k == "model_type" || k == "architectures" || (k == "eos_token_id" && eos_wins);
                let kept = keep && top.has(k);
                if !v.is_null() && !kept {
                    flat.map_mut().insert(k.clone(), v.clone());
                }
            }
            break;
        }
        let eos = token_ids(&flat, "eos_token_id")?;
        let model_type = match declared.as_str() {
            "bailing_hybrid" if architectures.iter().any(|a| a == "BailingMoeV3ForCausalLM") => {
                "bailing_moe_v3".to_owned()
            }
            name => alias(name).to_owned(),
        };
        Ok(Config { path, raw: top.map().clone(), flat, model_type, text_model_type, eos })
    }

    /// The file this came from.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The object as it was read, not flattened.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }
    /// The key stands there with an explicit null, which some families tell from its absence.
    pub fn is_null(&self, key: &str) -> bool {
        let null = |v: Option<&Value>| v.is_some_and(Value::is_null);
        null(self.raw.get(key)) || TEXT_KEYS.iter().any(|t| null(self.raw.get(*t).and_then(|t| t.get(key))))
    }
    /// The family's name, aliases resolved (`mistral` is `llama`).
    pub fn model_type(&self) -> &str {
        &self.model_type
    }
    /// `model_type` as the file spells it.
    pub fn declared_model_type(&self) -> &str {
        self.raw.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }
    /// The family of the text part of a multimodal wrapper, aliases resolved.
    pub fn text_model_type(&self) -> Option<&str> {
        self.text_model_type.as_deref()
    }
    /// The config had a `text_config` (or one of its other names).
    pub fn is_wrapper(&self) -> bool {
        TEXT_KEYS.iter().any(|k| self.raw.get(*k).is_some_and(Value::is_object))
    }
    /// How many tokens the model was made for, if its config says so.
    pub fn context(&self) -> Result<Option<usize>> {
        let keys = ["max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"];
        let mut said = None;
        for key in keys {
            said = said.or(self.opt_usize(key)?);
        }
        let Some(said) = said else { return Ok(None) };
        // a scaled rotary embedding reaches further than it was trained for
        let scaled = match self.rope().map(|r| r.kind) {
            Ok(RopeKind::Yarn(y)) => y.original_max as f64 * y.factor,
            Ok(RopeKind::Linear { factor } | RopeKind::Dynamic { factor }) => said as f64 * factor,
            _ => 0.0,
        };
        Ok(Some(said.max(scaled as usize)))
    }
    /// End-of-sequence ids; empty when the config names none.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos
    }
    pub fn bos_token_id(&self) -> Result<Option<u32>> {
        Ok(token_ids(&self.flat, "bos_token_id")?.first().copied())
    }
    /// The head shares the embedding's weight; `None`: the family's default holds.
    pub fn tie_word_embeddings(&self) -> Result<Option<bool>> {
        self.opt_flag("tie_word_embeddings")
    }
    /// `dtype` or `torch_dtype`, without a `torch.` prefix.
    pub fn dtype(&self) -> Result<Option<&str>> {
        let name = match self.opt_str("dtype")? {
            Some(name) => Some(name),
            None => self.opt_str("torch_dtype")?,
        };
        Ok(name.map(|n| n.strip_prefix("torch.").unwrap_or(n)))
    }
    /// Rotary embedding of all layers.
    pub fn rope(&self) -> Result<RopeConfig> {
        rope::read(&self.flat, None, None)
    }
    /// As [`rope`](Self::rope), for a family that reads the length that longrope was trained for in a place of its own.
    pub fn rope_trained(&self, length: usize) -> Result<RopeConfig> {
        rope::read(&self.flat, None, Some(length))
    }
    /// Rotary embedding of one layer type (`full_attention`, `sliding_attention`); the common one when the config
    /// makes no difference.
    pub fn rope_for(&self, layer_type: &str) -> Result<RopeConfig> {
        rope::read(&self.flat, Some(layer_type), None)
    }
    /// How the checkpoint's weights are quantised.
    pub fn quantization(&self) -> Result<Quantization> {
        quant::read(&self.flat)
    }
}

fn alias(name: &str) -> &str {
    ALIASES.iter().find(|(from, _)| *from == name).map_or(name, |(_, to)| to)
}

/// One id or a list of ids.
fn token_ids(s: &Section, key: &str) -> Result<Vec<u32>> {
    let ids = match s.get(key) {
        Some(Value::Array(_)) => s.usizes(key)?,
        // some configs write -1 or false for "none"
        Some(Value::Bool(false)) => vec![],
        Some(Value::Number(n)) if n.as_i64().is_some_and(|n| n < 0) => vec![],
        _ => s.opt_usize(key)?.into_iter().collect(),
    };
    ids.into_iter().map(|id| u32::try_from(id).map_err(|_| s.error(key, format!("{id} is not a token id")))).collect()
}
