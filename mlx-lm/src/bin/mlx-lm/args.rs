//! Arguments that several verbs share, with Python's names.

use crate::ui::Wait;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use mlx::Device;
use mlx_lm::cache::{CacheOptions, KvLayout, KvQuant, PagedKvCache, PromptCache, QuantizedKvCache};
use mlx_lm::decoder::LoadOptions;
use mlx_lm::generate::{Processors, Sampler};
use mlx_lm::{LanguageModel, hub};
use std::io::Read;
use std::path::PathBuf;

/// Which model, where.
#[derive(Args)]
pub struct ModelArgs {
    /// A directory, a .gguf file, or a hub id (org/name); without it a small model that downloads by itself.
    #[arg(long, value_name = "PATH|ID")]
    pub model: Option<String>,
    /// Branch, tag or commit of a hub model.
    #[arg(long)]
    pub revision: Option<String>,
    /// Adapters of a fine-tune to put on the model.
    #[arg(long, value_name = "DIR")]
    pub adapter_path: Option<PathBuf>,
    /// Where to compute; the GPU if there is one.
    #[arg(long, value_enum)]
    pub device: Option<DeviceArg>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum DeviceArg {
    Cpu,
    Gpu,
}

/// Makes `--device` the default of this thread.
pub fn use_device(device: Option<DeviceArg>) -> Result<()> {
    let Some(device) = device else { return Ok(()) };
    let device = match device {
        DeviceArg::Cpu => Device::Cpu,
        DeviceArg::Gpu => Device::Gpu(0),
    };
    mlx::set_default_device(device).with_context(|| format!("device {device}"))
}

impl ModelArgs {
    /// The model's name as given, or the default's.
    pub fn name(&self) -> &str {
        self.model.as_deref().unwrap_or(hub::DEFAULT_MODEL)
    }

    /// Where the model's files are; downloads them if need be.
    pub fn find(&self) -> Result<PathBuf> {
        Ok(hub::resolve(self.name(), self.revision.as_deref(), true)?.path)
    }

    /// Takes the model that a prompt was saved with, unless another way to the same one is given.
    pub fn same_model(&mut self, saved: &PromptCache) -> Result<()> {
        let Some(then) = saved.metadata.get("model") else { return Ok(()) };
        let Some(now) = &self.model else {
            self.model = Some(then.clone());
            return Ok(());
        };
        let real = |name: &str| std::fs::canonicalize(name).ok();
        if now != then && (real(now).is_none() || real(now) != real(then)) {
            bail!("--prompt-cache-file was made with the model {then}, not with {now}");
        }
        Ok(())
    }

    /// The model and its tokenizer.
    pub fn load(&self) -> Result<LanguageModel> {
        use_device(self.device)?;
        let path = self.find()?;
        let mut wait = Wait::new("loading model");
        let mut progress = |done, total| wait.at(done, total);
        let mut lm = mlx_lm::load_with(path, LoadOptions { progress: Some(&mut progress), ..Default::default() })?;
        if let Some(dir) = &self.adapter_path {
            mlx_lm::train::load_adapters(&mut lm.model.decoder, dir)?;
        }
        Ok(lm)
    }
}

/// How tokens are chosen.
#[derive(Args)]
pub struct SampleArgs {
    /// Temperature; 0 takes the most likely token.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temp: f32,
    /// Sample from the smallest set of tokens with this much probability.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Sample from this many tokens; 0 is all.
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Tokens that min-p leaves in any case.
    #[arg(long, default_value_t = 1)]
    pub min_tokens_to_keep: usize,
    /// Chance of leaving out the most likely tokens.
    #[arg(long, default_value_t = 0.0)]
    pub xtc_probability: f32,
    /// Tokens above this probability may be left out.
    #[arg(long, default_value_t = 0.0)]
    pub xtc_threshold: f32,
    /// Makes sampling repeatable.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Make tokens that were seen less likely by this factor.
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// How many tokens back the penalties look.
    #[arg(long, default_value_t = 20)]
    pub repetition_context_size: usize,
    /// Subtracted from the logits of tokens that were seen.
    #[arg(long)]
    pub presence_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it was seen.
    #[arg(long)]
    pub frequency_penalty: Option<f32>,
}

impl SampleArgs {
    pub fn sampler(&self, lm: &LanguageModel) -> Sampler {
        let newline = lm.tokenizer.as_ref().and_then(|t| t.encode("\n", false).ok()).unwrap_or_default();
        let mut sampler = Sampler::temperature(self.temp);
        sampler.top_p = self.top_p;
        sampler.min_p = self.min_p;
        sampler.min_tokens_to_keep = self.min_tokens_to_keep;
        sampler.top_k = self.top_k;
        sampler.xtc_probability = self.xtc_probability;
        sampler.xtc_threshold = self.xtc_threshold;
        sampler.xtc_special_tokens = [newline, lm.eos()].concat();
        match self.seed {
            Some(seed) => sampler.seeded(seed),
            None => sampler,
        }
    }

    pub fn processors(&self) -> Processors {
        let context = Some(self.repetition_context_size);
        Processors {
            logit_bias: Vec::new(),
            repetition_penalty: self.repetition_penalty,
            repetition_context: context,
            presence_penalty: self.presence_penalty,
            presence_context: context,
            frequency_penalty: self.frequency_penalty,
            frequency_context: context,
        }
    }
}

/// What is kept of earlier tokens.
#[derive(Args)]
pub struct CacheArgs {
    /// Keep at most this many tokens per layer, the first four for ever.
    #[arg(long)]
    pub max_kv_size: Option<i32>,
    /// How all keys and values are kept: in one buffer, in pages that copies share, or joined with each call.
    #[arg(long, value_enum, default_value_t = LayoutArg::Buffer)]
    pub kv_cache: LayoutArg,
    /// Pack keys and values into this many bits.
    #[arg(long)]
    pub kv_bits: Option<i32>,
    /// Pack values into this many bits, where that is not --kv-bits.
    #[arg(long, requires = "kv_bits")]
    pub kv_value_bits: Option<i32>,
    /// Values that share a scale in packed keys and values.
    #[arg(long, default_value_t = 64)]
    pub kv_group_size: i32,
    /// Pack once so many tokens are kept.
    #[arg(long, default_value_t = 5000)]
    pub quantized_kv_start: i32,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum LayoutArg {
    Buffer,
    Paged,
    Concatenated,
}

impl CacheArgs {
    pub fn quant(&self) -> Option<KvQuant> {
        self.kv_bits.map(|bits| KvQuant {
            bits,
            value_bits: self.kv_value_bits,
            group_size: self.kv_group_size,
            start: self.quantized_kv_start,
        })
    }

    /// Refuses to go on with other bits than the saved keys and values have.
    pub fn same_bits(&self, saved: &PromptCache) -> Result<()> {
        let packed = saved
            .caches
            .first()
            .and_then(|c| c.boxed_clone().as_any_mut().downcast_ref().map(QuantizedKvCache::key_bits));
        if let (Some(bits), Some((then, group))) = (self.kv_bits, packed)
            && (bits, self.kv_group_size) != (then, group)
        {
            bail!(
                "--prompt-cache-file holds {then} bits in groups of {group}: give --kv-bits {then} --kv-group-size {group}"
            );
        }
        Ok(())
    }

    pub fn options(&self) -> CacheOptions {
        let layout = match self.kv_cache {
            LayoutArg::Buffer => KvLayout::Buffer,
            LayoutArg::Paged => KvLayout::Paged { page: PagedKvCache::PAGE },
            LayoutArg::Concatenated => KvLayout::Concatenated,
        };
        CacheOptions { max_size: self.max_kv_size, layout }
    }
}

/// Token ids on the command line.
#[derive(Clone)]
pub struct Ids(pub Vec<u32>);

/// `1,2,3` (spaces are fine too).
pub fn ids(text: &str) -> Result<Ids, String> {
    let parts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|p| !p.is_empty());
    parts.map(|p| p.parse().map_err(|_| format!("{p:?} is not a token id"))).collect::<Result<_, _>>().map(Ids)
}

/// The text itself, or what stdin holds for `-`.
pub fn text_or_stdin(text: String) -> Result<String> {
    if text != "-" {
        return Ok(text);
    }
    let mut all = String::new();
    std::io::stdin().read_to_string(&mut all).context("stdin")?;
    Ok(all)
}
