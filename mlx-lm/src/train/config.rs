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

/// Rank, scale and targets of adapters. `alpha` in place of `scale` means alpha / rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraParameters {
    #[serde(default = "rank")]
    pub rank: i32,
    #[serde(default)]
    pub dropout: f32,
    #[serde(default = "scale")]
    pub scale: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f32>,
    /// Paths relative to a layer (`self_attn.q_proj`) or absolute; `None` adapts every linear-like layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
}

fn rank() -> i32 {
    8
}
fn scale() -> f32 {
    20.0
}

impl Default for LoraParameters {
    fn default() -> Self {
        LoraParameters { rank: rank(), dropout: 0.0, scale: scale(), alpha: None, keys: None }
    }
}

impl LoraParameters {
    /// The multiplier of the update.
    pub fn multiplier(&self) -> f32 {
        self.alpha.map_or(self.scale, |a| a / self.rank.max(1) as f32)
    }
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
        }
    }
}

impl LoraConfig {
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
        self.lora_parameters.check()
    }
}
