//! Rebuilds a tokenizer from GGUF metadata (`tokenizer.ggml.*`).
//!
//! The parser of the file lives elsewhere; it answers through [`GgufMeta`].
use serde_json::Value;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::{Parts, Specials, guard, pre, spm};
use crate::chat::ChatTemplate;
use crate::error::{Error, Result};

/// Metadata of a GGUF file by key; `None` when the key is absent or holds another type.
///
/// Integers of every width answer `u64` when they are not negative.
pub trait GgufMeta {
    fn string(&self, key: &str) -> Option<&str>;
    fn u64(&self, key: &str) -> Option<u64>;
    fn f32(&self, key: &str) -> Option<f32>;
    fn bool(&self, key: &str) -> Option<bool>;
    fn strings(&self, key: &str) -> Option<&[String]>;
    fn i32s(&self, key: &str) -> Option<&[i32]>;
    fn f32s(&self, key: &str) -> Option<&[f32]>;
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const TEMPLATE: &str = "tokenizer.chat_template";

/// `tokenizer.ggml.token_type`: a control token, recognised in text and left out of clean output.
const CONTROL: i32 = 3;
/// `tokenizer.ggml.token_type`: matched whole in text, but ordinary text.
const USER_DEFINED: i32 = 4;

/// Control tokens that end a turn, for files that name no end-of-turn id.
const END_OF_TURN: [&str; 10] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endofturn|>",
    "<|eom_id|>",
    "<EOT>",
    "<|END_OF_TURN_TOKEN|>",
    "<|eot|>",
];

/// What each kind of model settles.
struct Kind {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    decoder: DecoderWrapper,
    model: BPE,
    add_bos: bool,
}

pub(super) fn read(meta: &dyn GgufMeta) -> Result<Parts> {
    let model = meta.string(MODEL).ok_or_else(|| Error::config(MODEL, "missing: the file has no tokenizer"))?;
    let tokens = meta.strings(TOKENS).ok_or_else(|| Error::config(TOKENS, "missing, or not a list of strings"))?;
    if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
        return Err(Error::config(TOKENS, format!("{} tokens", tokens.len())));
    }
    let types = meta.i32s(TYPES);
    if let Some(types) = types
        && types.len() != tokens.len()
    {
        return Err(Error::config(TYPES, format!("{} entries for {} tokens", types.len(), tokens.len())));
    }
    let kind = match model {
        "gpt2" if is_gemma4(meta) => sentence_bpe(meta, tokens)?,
        "gpt2" => byte_level(meta, tokens)?,
        "gemma4" => sentence_bpe(meta, tokens)?,
        "llama" => sentence_piece(meta, tokens)?,
        other => {
            let message = "known tokenizer models: gpt2, llama, gemma4".into();
            return Err(Error::Unsupported { what: MODEL, name: other.into(), message });
        }
    };

    let mut pipeline = tokenizers::Tokenizer::new(kind.model);
    pipeline.with_normalizer(kind.normalizer);
    pipeline.with_pre_tokenizer(kind.pre_tokenizer);
    pipeline.with_decoder(Some(kind.decoder));
    let added: Vec<AddedToken> = types
        .unwrap_or_default()
        .iter()
        .zip(tokens)
        .filter(|(t, token)| matches!(**t, CONTROL | USER_DEFINED) && !token.is_empty())
        .map(|(t, token)| AddedToken::from(token.as_str(), *t == CONTROL).normalized(false))
        .collect();
    guard("added tokens", || {
        pipeline.add_tokens(&added);
        Ok(())
    })?;

    let token = |key: &str| -> Result<Option<(u32, &String)>> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        match meta.u64(&key) {
            None => Ok(None),
            // llama.cpp writes all ones for "none".
            Some(id) if id == u64::from(u32::MAX) => Ok(None),
            Some(id) => match tokens.get(id as usize) {
                Some(text) => Ok(Some((id as u32, text))),
                None => Err(Error::config(key, format!("{id} is outside the {} tokens", tokens.len()))),
            },
        }
    };
    let (bos, eos) = (token("bos")?, token("eos")?);
    let mut stop: Vec<u32> = eos.iter().map(|t| t.0).collect();
    stop.extend(token("eom")?.map(|t| t.0));
    match token("eot")? {
        Some((id, _)) => stop.push(id),
        None => {
            let is_control = |id: usize| types.is_some_and(|t| t[id] == CONTROL);
            let ends = tokens.iter().enumerate().filter(|(_, t)| END_OF_TURN.contains(&t.as_str()));
            stop.extend(ends.filter(|(id, _)| is_control(*id)).map(|(id, _)| id as u32));
        }
    }

    let add_bos = meta.bool("tokenizer.ggml.add_bos_token").unwrap_or(kind.add_bos);
    let add_eos = meta.bool("tokenizer.ggml.add_eos_token").unwrap_or(false);
    let first = bos.filter(|_| add_bos);
    let last = eos.filter(|_| add_eos);
    if first.is_some() || last.is_some() {
        pipeline.with_post_processor(Some(surround(first, last)?));
    }

    let mut specials = Specials::new();
    for (name, key) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        if let Some((_, text)) = token(key)? {
            specials.insert(name.into(), Value::String(text.clone()));
        }
    }
    Ok(Parts {
        bos: bos.map(|(_, text)| text.clone()),
        eos: stop,
        chat_template: template(meta, specials)?,
        tool_parser: None,
        newline_as: None,
        pipeline,
    })
}

fn template(meta: &dyn GgufMeta, specials: Specials) -> Result<Option<ChatTemplate>> {
    let Some(source) = meta.string(TEMPLATE) else { return Ok(None) };
    let mut named = vec![("default".to_string(), TEMPLATE.to_string(), source.to_string())];
    for name in meta.strings("tokenizer.chat_templates").unwrap_or_default() {
        let key = format!("{TEMPLATE}.{name}");
        if let Some(source) = meta.string(&key) {
            named.push((name.clone(), key, source.to_string()));
        }
    }
    ChatTemplate::new(named, specials).map(Some)
}

fn is_gemma4(meta: &dyn GgufMeta) -> bool {
    meta.string(PRE) == Some("gemma4")
}

fn vocab(tokens: &[String]) -> Vocab {
    tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect()
}

/// `"left right"` lines; the space that parts them is never the first character.
fn merges(meta: &dyn GgufMeta) -> Result<Merges> {
    let lines = meta.strings(MERGES).ok_or_else(|| Error::config(MERGES, "missing, or not a list of strings"))?;
    let split = |(n, line): (usize, &String)| {
        let first = line.chars().next().map_or(0, char::len_utf8);
        let at = line[first..].find(' ').map(|at| at + first);
        match at {
            Some(at) if at + 1 < line.len() => Ok((line[..at].to_string(), line[at + 1..].to_string())),
            _ => Err(Error::config(MERGES, format!("merge {n} is not a pair: {line:?}"))),
        }
    };
    lines.iter().enumerate().map(split).collect()
}

fn build(model: tokenizers::models::bpe::BpeBuilder) -> Result<BPE> {
    guard("vocabulary and merges", || model.build())
}

fn byte_level(meta: &dyn GgufMeta, tokens: &[String]) -> Result<Kind> {
    let name = meta.string(PRE).ok_or_else(|| Error::config(PRE, "missing: the text split is unknown"))?;
    let pre = pre::find(name)?;
    let prefix = meta.bool("tokenizer.ggml.add_space_prefix").unwrap_or(false);
    let mut steps: Vec<PreTokenizerWrapper> = pre.steps(name)?;
    steps.push(ByteLevel::new(prefix, true, pre.gpt2_words).into());
    let model = BPE::builder().vocab_and_merges(vocab(tokens), merges(meta)?).ignore_merges(pre.ignore_merges);
    Ok(Kind {
        normalizer: None,
        pre_tokenizer: Some(PreTokenizers::new(steps).into()),
        decoder: ByteLevel::new(false, true, false).into(),
        model: build(model)?,
        add_bos: pre.add_bos,
    })
}

fn replace(from: &str, to: &str) -> Result<Replace> {
    Replace::new(from, to).map_err(|e| Error::Tokenizer(e.to_string()))
}

fn spm_decoder(strip: bool) -> Result<DecoderWrapper> {
    let mut steps: Vec<DecoderWrapper> =
        vec![replace("\u{2581}", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if strip {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(Decoders::new(steps).into())
}

/// Gemma 4: merges over characters with `▁` for spaces, cut at newlines only.
fn sentence_bpe(meta: &dyn GgufMeta, tokens: &[String]) -> Result<Kind> {
    let model = BPE::builder().vocab_and_merges(vocab(tokens), merges(meta)?).byte_fallback(true).fuse_unk(true);
    Ok(Kind {
        normalizer: Some(replace(" ", "\u{2581}")?.into()),
        pre_tokenizer: Some(PreTokenizers::new(pre::newlines()?).into()),
        decoder: spm_decoder(false)?,
        model: build(model)?,
        add_bos: true,
    })
}

/// SentencePiece: the file holds scores, no merges.
fn sentence_piece(meta: &dyn GgufMeta, tokens: &[String]) -> Result<Kind> {
    let gemma = meta.string("general.architecture").is_some_and(|a| a.starts_with("gemma"));
    let scores = meta.f32s(SCORES);
    if let Some(scores) = scores
        && scores.len() != tokens.len()
    {
        return Err(Error::config(SCORES, format!("{} entries for {} tokens", scores.len(), tokens.len())));
    }
    let order = match scores {
        Some(scores) if !gemma => spm::Order::Scores(scores),
        None if !gemma => return Err(Error::config(SCORES, "missing, or not a list of numbers")),
        _ => spm::Order::Ids,
    };
    let vocab = spm::vocab(tokens);
    let merges = spm::merges(&vocab, order);
    let unknown = meta.u64("tokenizer.ggml.unknown_token_id").and_then(|id| tokens.get(id as usize));
    let mut model = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown.clone());
    }
    let prefix = meta.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        steps.push(Prepend::new("\u{2581}".into()).into());
    }
    steps.push(replace(" ", "\u{2581}")?.into());
    Ok(Kind {
        normalizer: Some(Normalizers::new(steps).into()),
        pre_tokenizer: None,
        decoder: spm_decoder(prefix)?,
        model: build(model)?,
        add_bos: true,
    })
}

/// Adds BOS and EOS around a text.
fn surround(first: Option<(u32, &String)>, last: Option<(u32, &String)>) -> Result<TemplateProcessing> {
    // `first` and `last` are template names here; the ids are what counts.
    let mut single = Vec::new();
    let mut names = Vec::new();
    if let Some((id, _)) = first {
        single.push("<bos>");
        names.push(("<bos>", id));
    }
    single.push("$A");
    if let Some((id, _)) = last {
        single.push("<eos>");
        names.push(("<eos>", id));
    }
    let fail = |e: String| Error::Tokenizer(e);
    TemplateProcessing::builder()
        .try_single(single)
        .map_err(fail)?
        .special_tokens(names)
        .build()
        .map_err(|e| Error::Tokenizer(e.to_string()))
}
