//! Text to token ids and back.
//!
//! A [`Tokenizer`] is read from a checkpoint folder (`tokenizer.json` and its companions, see `files`) or rebuilt from
//! GGUF metadata (see [`gguf`]); both end as one `tokenizers` pipeline. [`Detokenizer`] turns a stream of ids into
//! text without ever splitting a character. Chat templates live in [`crate::chat`]; no arrays live here.

mod detokenizer;
mod files;
pub mod gguf;
mod pieces;
mod pre;
mod spm;
mod thinking;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

pub use detokenizer::Detokenizer;
pub use gguf::GgufMeta;
pub use thinking::Thinking;

use crate::chat::stream::Markers;
use crate::chat::tools::ToolParsers;
use crate::chat::{ChatTemplate, Message, RenderOptions};
use crate::error::{Error, Result};
use pieces::{Decoding, Pieces};

/// A model's tokenizer: vocabulary, special tokens, stop ids and chat template (Python `TokenizerWrapper`).
///
/// Cloning is cheap and the value is `Send + Sync`.
///
/// ```no_run
/// # fn main() -> mlx_lm::Result<()> {
/// let tokenizer = mlx_lm::tokenizer::Tokenizer::from_dir("model".as_ref(), &[])?;
/// let ids = tokenizer.encode("Why is the sky blue?", true)?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "Why is the sky blue?");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    eos: Vec<u32>,
}

/// What every clone shares.
struct Inner {
    pipeline: Arc<tokenizers::Tokenizer>,
    decoding: Decoding,
    pieces: OnceLock<Arc<Pieces>>,
    bos: Option<(u32, String)>,
    thinking: Option<Thinking>,
    chat_template: Option<ChatTemplate>,
    tool_parser: Option<String>,
    newline_as: Option<&'static str>,
    vocab_size: usize,
}

/// Everything a reader (folder or GGUF) found out.
struct Parts {
    pipeline: tokenizers::Tokenizer,
    bos: Option<String>,
    eos: Vec<u32>,
    chat_template: Option<ChatTemplate>,
    /// `tool_parser_type` of `tokenizer_config.json`.
    tool_parser: Option<String>,
    /// Some models spell a newline as `<n>` (Python `NewlineTokenizer`).
    newline_as: Option<&'static str>,
}

impl Tokenizer {
    /// Reads a checkpoint folder. `eos` are the stop ids of `config.json`; they are united with those of
    /// `generation_config.json` and the tokenizer's own.
    ///
    /// Errors name the file that is missing or malformed.
    pub fn from_dir(dir: &Path, eos: &[u32]) -> Result<Self> {
        Self::build(files::read(dir, eos)?)
    }

    /// Rebuilds the tokenizer from the `tokenizer.*` keys of a GGUF file.
    ///
    /// Errors name the key; an unknown `tokenizer.ggml.model` or `tokenizer.ggml.pre` is refused, since another split
    /// would silently give other ids.
    pub fn from_gguf(meta: &dyn GgufMeta) -> Result<Self> {
        Self::build(gguf::read(meta)?)
    }

    fn build(parts: Parts) -> Result<Self> {
        let Parts { pipeline, bos, mut eos, chat_template, tool_parser, newline_as } = parts;
        let decoding = Decoding::of(&pipeline);
        let bos = match bos {
            Some(token) => pipeline.token_to_id(&token).map(|id| (id, token)),
            None => None,
        };
        let vocab_size = pipeline.get_vocab_size(true);
        let thinking = thinking::find(&pipeline)?;
        eos.sort_unstable();
        eos.dedup();
        let inner = Inner {
            pipeline: Arc::new(pipeline),
            decoding,
            pieces: OnceLock::new(),
            bos,
            thinking,
            chat_template,
            tool_parser,
            newline_as,
            vocab_size,
        };
        Ok(Self { inner: Arc::new(inner), eos })
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and the chat template, as Python reads them.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let fail = |e: String| Error::Tokenizer(e);
        let text = self.inner.pipeline.to_string(true).map_err(|e| fail(e.to_string()))?;
        crate::weights::write_atomic(&dir.join("tokenizer.json"), text.as_bytes())?;
        let eos = self.eos.first().and_then(|&id| self.id_to_token(id));
        let mut config = serde_json::json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos });
        if let Some((_, bos)) = &self.inner.bos {
            config["bos_token"] = bos.clone().into();
        }
        if let Some(t) = self.chat_template() {
            config["chat_template"] = t.source().into();
        }
        let bytes = serde_json::to_vec_pretty(&config).map_err(|e| fail(e.to_string()))?;
        crate::weights::write_atomic(&dir.join("tokenizer_config.json"), &bytes)
    }

    /// Token ids of `text`. Special tokens spelled out in the text are recognised, as in Python; `add_special` adds
    /// what the tokenizer adds by itself (BOS, EOS).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let spelled;
        let text = match self.inner.newline_as {
            Some(n) => {
                spelled = text.replace('\n', n);
                spelled.as_str()
            }
            None => text,
        };
        guard("encode", || self.inner.pipeline.encode_fast(text, add_special).map(|e| e.get_ids().to_vec()))
    }

    /// Text of `ids`; ids outside the vocabulary give nothing, `skip_special` leaves control tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = guard("decode", || self.inner.pipeline.decode(ids, skip_special))?;
        Ok(match self.inner.newline_as {
            Some(n) => text.replace(n, "\n"),
            None => text,
        })
    }

    /// The id that starts a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.inner.bos.as_ref().map(|(id, _)| *id)
    }

    /// Ids that end a generation, ascending, without repeats.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Adds one stop id, given as a token of the vocabulary or as a number (Python `add_eos_token`).
    pub fn add_eos(&mut self, token_or_id: &str) -> Result<()> {
        let id = match token_or_id.trim().parse::<u32>() {
            Ok(id) => id,
            Err(_) => self
                .token_to_id(token_or_id)
                .ok_or_else(|| Error::Request(format!("{token_or_id:?} is not a token of this tokenizer")))?,
        };
        if let Err(at) = self.eos.binary_search(&id) {
            self.eos.insert(at, id);
        }
        Ok(())
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.pipeline.token_to_id(token)
    }

    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.pipeline.id_to_token(id)
    }

    /// Number of tokens, added ones included. A model's output may be wider (padded).
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// Whether `text` spells the BOS token first: then it must be encoded without adding another.
    pub fn starts_with_bos(&self, text: &str) -> bool {
        self.inner.bos.as_ref().is_some_and(|(_, token)| !token.is_empty() && text.starts_with(token.as_str()))
    }

    /// A fresh streaming detokenizer; cheap, owned, `Send`.
    pub fn detokenizer(&self) -> Detokenizer {
        let inner = &self.inner;
        match inner.decoding {
            Decoding::Other => Detokenizer::by_decoding(inner.pipeline.clone(), inner.newline_as),
            decoding => {
                let pieces =
                    inner.pieces.get_or_init(|| Arc::new(Pieces::new(&inner.pipeline, decoding, inner.newline_as)));
                Detokenizer::by_pieces(pieces.clone(), decoding == Decoding::SpmTrim)
            }
        }
    }

    /// The model's own chat template, if it ships one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.inner.chat_template.as_ref()
    }

    /// Renders `messages` as the model's prompt text; encode it with `add_special = false`.
    ///
    /// As in Python, `enable_thinking` is passed to the template as [`has_thinking`](Self::has_thinking) unless given.
    pub fn apply_chat_template(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let template =
            self.chat_template().ok_or_else(|| Error::Template("this tokenizer has no chat template".into()))?;
        if options.variables.contains_key("enable_thinking") {
            return template.render(messages, options);
        }
        let mut options = options.clone();
        options.variables.insert("enable_thinking".into(), self.has_thinking().into());
        template.render(messages, &options)
    }

    /// Whether the vocabulary has a pair of thinking markers.
    pub fn has_thinking(&self) -> bool {
        self.inner.thinking.is_some()
    }

    /// The thinking markers and their ids.
    pub fn thinking(&self) -> Option<&Thinking> {
        self.inner.thinking.as_ref()
    }

    /// The tool-call wire form of this model: `tool_parser_type` of the tokenizer config, else inferred from the chat
    /// template, else from the vocabulary. `None` when the model calls no tools.
    pub fn tool_parser(&self) -> Option<&str> {
        if let Some(name) = &self.inner.tool_parser {
            return Some(name);
        }
        let source = self.chat_template().map(|t| t.source());
        crate::chat::tools::infer(source, &|token| self.token_to_id(token).is_some())
    }

    /// The markers that part this model's answers: of thinking, of tool calls, and those without meaning for a reader.
    ///
    /// Errors: a `tool_parser_type` that is not known.
    pub fn markers(&self) -> Result<Markers> {
        let tool = match self.tool_parser() {
            Some(name) => {
                let (start, end) = ToolParsers::builtin().get(name)?.markers();
                Some((start.to_string(), end.to_string()))
            }
            None => None,
        };
        let xtml = thinking::XTML.iter().all(|t| self.token_to_id(t).is_some());
        let structural = ["<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"];
        Ok(Markers {
            thinking: self.thinking().map(|t| (t.start.clone(), t.end.clone())),
            tool,
            structural: structural.iter().filter(|_| xtml).map(|m| m.to_string()).collect(),
            stop: Vec::new(),
        })
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.inner.vocab_size)
            .field("bos", &self.inner.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

/// Named special tokens as template variables (`bos_token`, `eos_token`, ...).
type Specials = BTreeMap<String, serde_json::Value>;

/// Runs `tokenizers` code; its error, or its panic on a hostile file, becomes ours.
fn guard<T>(what: &str, f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(done) => done.map_err(|e| Error::Tokenizer(format!("{what}: {e}"))),
        Err(_) => Err(Error::Tokenizer(format!("{what}: the tokenizer file describes an impossible step"))),
    }
}
