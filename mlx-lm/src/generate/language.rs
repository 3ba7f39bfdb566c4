//! A model with its tokenizer: what a program loads to generate text (`mlx_lm.load`).

use super::stream::{StreamOptions, TextStream};
use crate::cache::{CacheOptions, Caches};
use crate::chat::{Message, RenderOptions};
use crate::decoder::{LoadOptions, Model};
use crate::tokenizer::Tokenizer;
use crate::weights::{Checkpoint, Dtype, GgufOptions};
use crate::{Error, Result};
use mlx::Device;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A model and the tokenizer that belongs to it.
pub struct LanguageModel {
    pub model: Model,
    /// `None` when the checkpoint holds no tokenizer: then only ids go in and out.
    pub tokenizer: Option<Tokenizer>,
    /// The directory or file it came from.
    pub path: PathBuf,
    pub load_time: Duration,
}

/// Loads a model directory or GGUF file with its tokenizer (`mlx_lm.load`). [`crate::hub::resolve`] finds models by
/// name.
///
/// ```no_run
/// # fn main() -> mlx_lm::Result<()> {
/// use mlx_lm::{StreamOptions, chat::Message, hub};
/// let lm = mlx_lm::load(hub::resolve(hub::DEFAULT_MODEL, None, true)?.path)?;
/// let prompt = lm.chat_ids(&[Message::user("Why is the sky blue?")])?;
/// let mut caches = lm.caches()?;
/// for response in lm.stream(&prompt, &mut caches, StreamOptions::default())? {
///     print!("{}", response?.text);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`Model::load`], and a tokenizer that is there but broken.
pub fn load(path: impl AsRef<Path>) -> Result<LanguageModel> {
    load_with(path, LoadOptions::default())
}

/// As [`load`], with options.
pub fn load_with(path: impl AsRef<Path>, options: LoadOptions<'_>) -> Result<LanguageModel> {
    let start = Instant::now();
    let path = path.as_ref();
    let checkpoint = Checkpoint::open_with(path, gguf_options())?;
    let config = checkpoint.config()?;
    // before the weights: a broken tokenizer is told at once
    let tokenizer = tokenizer(&checkpoint, config.eos_token_ids())?;
    let model = Model::from_checkpoint(config, &checkpoint, options)?;
    Ok(LanguageModel { model, tokenizer, path: path.into(), load_time: start.elapsed() })
}

/// On the CPU a GGUF's embedding and norms are f32, and with them the hidden states, which is both exact and faster there.
/// Other scales stay as narrow as is exact: reading them is part of each token's time.
pub fn gguf_options() -> GgufOptions {
    match mlx::default_device() {
        Device::Cpu => GgufOptions { scales: None, dense: Dtype::F32, half: false },
        Device::Gpu(_) => GgufOptions::half(),
    }
}

/// The tokenizer of a checkpoint; `None` when it holds none.
///
/// # Errors
/// A tokenizer that is there and cannot be read.
pub fn tokenizer(checkpoint: &Checkpoint, eos: &[u32]) -> Result<Option<Tokenizer>> {
    if let Some(gguf) = checkpoint.gguf_model() {
        if !gguf.metadata().contains_key("tokenizer.ggml.model") {
            return Ok(None);
        }
        return Tokenizer::from_gguf(gguf).map(Some);
    }
    let path = checkpoint.path();
    let dir = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    if !dir.join("tokenizer.json").exists() {
        return Ok(None);
    }
    Tokenizer::from_dir(dir, eos).map(Some)
}

impl LanguageModel {
    /// The tokenizer, an error that names the model when there is none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| Error::file(&self.path, "holds no tokenizer.json: only token ids can be used as a prompt"))
    }

    /// Ids that end a generation.
    pub fn eos(&self) -> Vec<u32> {
        match &self.tokenizer {
            Some(t) => t.eos().to_vec(),
            None => self.model.config.eos_token_ids().to_vec(),
        }
    }

    /// Fresh caches for one sequence (`make_prompt_cache`).
    pub fn caches(&self) -> Result<Caches> {
        self.model.decoder.caches()
    }

    /// As [`caches`](Self::caches), of a chosen form.
    pub fn caches_with(&self, options: CacheOptions) -> Result<Caches> {
        self.model.decoder.caches_with(options)
    }

    /// Ids of a plain text, with what the tokenizer adds by itself unless the text already starts with it.
    pub fn text_ids(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        tokenizer.encode(text, !tokenizer.starts_with_bos(text))
    }

    /// Ids of a conversation, rendered by the model's chat template up to the start of the next answer.
    pub fn chat_ids(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.chat_ids_with(messages, &RenderOptions::default())
    }

    /// As [`chat_ids`](Self::chat_ids), with options of the template.
    pub fn chat_ids_with(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        tokenizer.encode(&tokenizer.apply_chat_template(messages, options)?, false)
    }

    /// Ids of a text that a prompt cache is to hold: the user's turn is left open, so that a question can follow it.
    pub fn prefix_ids(&self, text: &str) -> Result<Vec<u32>> {
        if self.tokenizer()?.chat_template().is_none() {
            return self.text_ids(text);
        }
        let open = RenderOptions { add_generation_prompt: false, continue_final_message: true, ..Default::default() };
        self.chat_ids_with(&[Message::user(text)], &open)
    }

    /// As [`chat_ids_with`](Self::chat_ids_with), without what stands before the last user's text: a prompt cache holds
    /// that.
    ///
    /// # Errors
    /// Messages without a user's turn, a template that drops its text.
    pub fn suffix_ids(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>> {
        const MARK: &str = "<query>";
        let tokenizer = self.tokenizer()?;
        let mut marked = messages.to_vec();
        let Some(last) = marked.iter_mut().rev().find(|m| m.role() == "user") else {
            return Err(Error::Request("a conversation without a user's turn does not continue a prompt cache".into()));
        };
        last.set("content", MARK);
        let text = tokenizer.apply_chat_template(messages, options)?;
        let start = tokenizer.apply_chat_template(&marked, options)?.find(MARK);
        match start.and_then(|at| text.get(at..)) {
            Some(rest) => tokenizer.encode(rest, false),
            None => Err(Error::Template("the chat template does not show the user's text".into())),
        }
    }

    /// Generates from prompt ids; `caches` may hold an earlier part of the sequence (`stream_generate`).
    pub fn stream<'a>(
        &'a self,
        prompt: &[u32],
        caches: &'a mut Caches,
        options: StreamOptions<'a>,
    ) -> Result<TextStream<'a>> {
        TextStream::new(self, prompt, caches, options)
    }

    /// The whole answer to a prompt (`generate`).
    pub fn generate(&self, prompt: &[u32], options: StreamOptions<'_>) -> Result<String> {
        let mut caches = self.caches()?;
        self.stream(prompt, &mut caches, options)?.map(|r| r.map(|r| r.text)).collect()
    }

    /// How many tokens the model was made for, if its config says so.
    pub fn context(&self) -> Result<Option<usize>> {
        self.model.config.context()
    }

    /// Refuses more tokens than the context holds.
    pub fn check_length(&self, tokens: usize) -> Result<()> {
        match self.context()? {
            Some(n) if tokens > n => Err(Error::Request(format!(
                "the prompt has {tokens} tokens, the context of {} holds {n} (max_position_embeddings)",
                self.path.display()
            ))),
            _ => Ok(()),
        }
    }
}
