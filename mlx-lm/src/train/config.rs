//! What a fine-tuning run is told: Python's YAML keys and flags.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FineTune {
    Lora,
    Dora,
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    Adam,
    Adamw,
    Muon,
    Sgd,
    Adafactor,
}

impl OptimizerName {
    pub const ALL: [OptimizerName; 5] = [Self::Adam, Self::Adamw, Self::Muon, Self::Sgd, Self::Adafactor];

    pub fn name(self) -> &'static str {
        match self {
            Self::Adam => "adam",
            Self::Adamw => "adamw",
            Self::Muon => "muon",
            Self::Sgd => "sgd",
            Self::Adafactor => "adafactor",
        }
    }
}

/// Which examples share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchOrder {
    /// Those of like length in tokens: least padding.
    Length,
    /// Those that Python groups: it sorts by the number of keys of the raw record, which is the file's order.
    Python,
}

/// Rank, scale and targets of adapters. Read with `alpha` in place of `scale`, the scale is alpha / rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct LoraParameters {
    pub rank: i32,
    pub dropout: f32,
    /// Factor on the update.
    pub scale: f32,
    /// Paths relative to a layer (`self_attn.q_proj`) or absolute; `None` adapts every linear-like layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
}

/// The parameters as files hold them.
#[derive(Deserialize)]
struct Written {
    #[serde(alias = "r")]
    rank: Option<i32>,
    dropout: Option<f32>,
    scale: Option<f32>,
    #[serde(alias = "lora_alpha")]
    alpha: Option<f32>,
    keys: Option<Vec<String>>,
}

impl From<Written> for LoraParameters {
    fn from(w: Written) -> Self {
        let standard = LoraParameters::default();
        let rank = w.rank.unwrap_or(standard.rank);
        let scale = w.scale.or(w.alpha.map(|a| a / rank.max(1) as f32)).unwrap_or(standard.scale);
        LoraParameters { rank, dropout: w.dropout.unwrap_or(standard.dropout), scale, keys: w.keys }
    }
}

impl Default for LoraParameters {
    fn default() -> Self {
        LoraParameters { rank: 8, dropout: 0.0, scale: 20.0, keys: None }
    }
}

impl LoraParameters {
    pub fn check(&self) -> Result<()> {
        if self.rank < 1 {
            return Err(Error::Request(format!("lora_parameters.rank {} must be at least 1", self.rank)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::Request(format!("lora_parameters.dropout {} is not in 0..1", self.dropout)));
        }
        Ok(())
    }
}

/// A schedule by Python's name, with its arguments and an optional linear warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    pub name: String,
    pub arguments: Vec<f64>,
    #[serde(default)]
    pub warmup: i32,
    #[serde(default)]
    pub warmup_init: f64,
}

/// All settings of a run, under Python's names and with its defaults.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    pub model: String,
    pub train: bool,
    pub test: bool,
    pub fine_tune_type: FineTune,
    pub optimizer: OptimizerName,
    pub optimizer_config: BTreeMap<String, serde_json::Value>,
    pub data: PathBuf,
    pub seed: u64,
    /// Layers from the end; -1 and 0 are all.
    pub num_layers: i32,
    pub batch_size: usize,
    pub iters: usize,
    /// -1 is all.
    pub val_batches: i64,
    pub learning_rate: f64,
    pub steps_per_report: usize,
    pub steps_per_eval: usize,
    pub save_every: usize,
    pub resume_adapter_file: Option<PathBuf>,
    pub adapter_path: PathBuf,
    pub test_batches: i64,
    pub max_seq_length: usize,
    pub grad_checkpoint: bool,
    pub grad_accumulation_steps: usize,
    pub lr_schedule: Option<ScheduleConfig>,
    pub lora_parameters: LoraParameters,
    pub mask_prompt: bool,
    pub report_to: Option<String>,
    pub prompt_feature: String,
    pub completion_feature: String,
    pub text_feature: String,
    pub chat_feature: String,
    /// Clip the gradients to this norm; off at 0.
    pub max_grad_norm: f64,
    pub batch_order: BatchOrder,
    /// Put several short examples into one row; they do not see each other.
    pub pack: bool,
    /// Trace the step once per shape and replay it. On CUDA its fused kernels take MLX one to two minutes to compile at
    /// first, and the steps are no faster.
    pub compile: bool,
    /// Give cached memory back when there is more of it than this many bytes; never at 0.
    pub clear_cache_threshold: usize,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            model: crate::hub::DEFAULT_MODEL.into(),
            train: false,
            test: false,
            fine_tune_type: FineTune::Lora,
            optimizer: OptimizerName::Adam,
            optimizer_config: BTreeMap::new(),
            data: "data".into(),
            seed: 0,
            num_layers: 16,
            batch_size: 4,
            iters: 1000,
            val_batches: 25,
            learning_rate: 1e-5,
            steps_per_report: 10,
            steps_per_eval: 200,
            save_every: 100,
            resume_adapter_file: None,
            adapter_path: "adapters".into(),
            test_batches: 500,
            max_seq_length: 2048,
            grad_checkpoint: false,
            grad_accumulation_steps: 1,
            lr_schedule: None,
            lora_parameters: LoraParameters::default(),
            mask_prompt: false,
            report_to: None,
            prompt_feature: "prompt".into(),
            completion_feature: "completion".into(),
            text_feature: "text".into(),
            chat_feature: "messages".into(),
            max_grad_norm: 0.0,
            batch_order: BatchOrder::Length,
            pack: false,
            compile: false,
            clear_cache_threshold: 0,
        }
    }
}

/// Python's settings that mean nothing here.
const IGNORED: [&str; 3] = ["config", "project_name", "trust_remote_code"];

impl LoraConfig {
    /// From settings by name; those that are missing or null have their default.
    ///
    /// # Errors
    /// A name that is not known, a value of the wrong type.
    pub fn from_settings(settings: serde_json::Map<String, serde_json::Value>) -> Result<LoraConfig> {
        let known = serde_json::to_value(LoraConfig::default()).map_err(|e| Error::Request(e.to_string()))?;
        let mut all = known.as_object().cloned().unwrap_or_default();
        for (key, value) in settings.into_iter().filter(|(_, v)| !v.is_null()) {
            match all.get_mut(&key) {
                Some(slot) => *slot = value,
                None if IGNORED.contains(&key.as_str()) => {}
                None => return Err(Error::Request(format!("settings: {key:?} is not known"))),
            }
        }
        serde_json::from_value(serde_json::Value::Object(all)).map_err(|e| Error::Request(format!("settings: {e}")))
    }

    /// Refuses values that cannot be meant.
    pub fn check(&self) -> Result<()> {
        let fail = |m: String| Err(Error::Request(m));
        if self.batch_size == 0 {
            return fail("batch_size must be at least 1".into());
        }
        if self.grad_accumulation_steps == 0 {
            return fail("grad_accumulation_steps must be at least 1".into());
        }
        if !(self.learning_rate.is_finite() && self.learning_rate >= 0.0) {
            return fail(format!("learning_rate {} is not a number >= 0", self.learning_rate));
        }
        if self.max_seq_length < 2 {
            return fail(format!("max_seq_length {} must be at least 2", self.max_seq_length));
        }
        if let Some(service @ ("wandb" | "swanlab")) = self.report_to.as_deref() {
            return fail(format!("report_to {service:?} is not served: name a file"));
        }
        self.lora_parameters.check()
    }
}
