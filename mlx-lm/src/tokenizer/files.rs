//! Reads a checkpoint folder: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
//! `generation_config.json` and the chat template files.
use std::path::Path;

use serde_json::{Map, Value};

use super::{Parts, Specials, guard};
use crate::chat::ChatTemplate;
use crate::error::{Error, Result};

pub(super) fn read(dir: &Path, eos: &[u32]) -> Result<Parts> {
    let path = dir.join("tokenizer.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::file(
                &path,
                "no such file: the model needs a tokenizer.json (tokenizer.model alone is not read)",
            ));
        }
        Err(e) => return Err(Error::io(&path, e)),
    };
    let mut pipeline = guard("read", || tokenizers::Tokenizer::from_bytes(&bytes))
        .map_err(|e| Error::file(&path, format!("not a tokenizer: {e}")))?;
    // Padding and truncation are a training set-up's business.
    pipeline.with_padding(None);
    pipeline.with_truncation(None).map_err(|e| Error::file(&path, e.to_string()))?;

    let config = object(&dir.join("tokenizer_config.json"))?;
    let map = object(&dir.join("special_tokens_map.json"))?;
    let generation = object(&dir.join("generation_config.json"))?;
    add_tokens(&mut pipeline, &config)?;

    let mut specials = Specials::new();
    // The config wins over the map, as it is read last.
    for (key, value) in map.iter().chain(&config) {
        if let Some(token) = token_text(value).filter(|_| key.ends_with("_token")) {
            specials.insert(key.clone(), Value::String(token.to_string()));
        } else if matches!(key.as_str(), "additional_special_tokens" | "extra_special_tokens")
            && let Some(list) = value.as_array()
        {
            let list = list.iter().filter_map(token_text).map(Value::from).collect();
            specials.insert("additional_special_tokens".into(), Value::Array(list));
        } else if key == "extra_special_tokens"
            && let Some(named) = value.as_object()
        {
            for (name, token) in named {
                if let Some(token) = token_text(token) {
                    specials.insert(name.clone(), Value::String(token.to_string()));
                }
            }
        }
    }
    let named = |key: &str| specials.get(key).and_then(Value::as_str).map(str::to_string);

    let mut eos = eos.to_vec();
    eos.extend(ids(&dir.join("generation_config.json"), &generation, "eos_token_id")?);
    if let Some(token) = named("eos_token") {
        eos.extend(pipeline.token_to_id(&token));
    }
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    Ok(Parts {
        bos: named("bos_token"),
        eos,
        chat_template: template(dir, &config, &specials)?,
        tool_parser: text("tool_parser_type").map(str::to_string),
        newline_as: (text("tokenizer_class") == Some("NewlineTokenizer")).then_some("<n>"),
        pipeline,
    })
}

/// The JSON object of a file; empty when there is no such file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::file(path, format!("not a JSON object: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// `"</s>"` or `{"content": "</s>", ...}`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// One id or a list of ids.
fn ids(path: &Path, object: &Map<String, Value>, key: &str) -> Result<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let wrong = || Error::file(path, format!("{key}: expected a token id or a list of them"));
    match object.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|v| id(v).ok_or_else(wrong)).collect(),
        Some(v) => Ok(vec![id(v).ok_or_else(wrong)?]),
    }
}

/// Tokens that only `added_tokens_decoder` of the config knows join the vocabulary, in the order of their ids.
fn add_tokens(pipeline: &mut tokenizers::Tokenizer, config: &Map<String, Value>) -> Result<()> {
    let Some(added) = config.get("added_tokens_decoder").and_then(Value::as_object) else { return Ok(()) };
    let mut new: Vec<(u64, tokenizers::AddedToken)> = Vec::new();
    for (id, token) in added {
        let (Ok(id), Some(text)) = (id.parse(), token_text(token)) else { continue };
        if pipeline.token_to_id(text).is_some() {
            continue;
        }
        let flag = |key: &str, default| token.get(key).and_then(Value::as_bool).unwrap_or(default);
        let special = flag("special", false);
        let token = tokenizers::AddedToken::from(text, special)
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .single_word(flag("single_word", false))
            .normalized(flag("normalized", !special));
        new.push((id, token));
    }
    new.sort_by_key(|(id, _)| *id);
    for (_, token) in new {
        guard("added_tokens_decoder", || {
            pipeline.add_tokens(&[token]);
            Ok(())
        })?;
    }
    Ok(())
}

/// The template and its named siblings: `chat_template.jinja`, `additional_chat_templates/*.jinja`, then
/// `chat_template` of `tokenizer_config.json` (a string, or a list of named ones), then `chat_template.json`.
fn template(dir: &Path, config: &Map<String, Value>, specials: &Specials) -> Result<Option<ChatTemplate>> {
    let mut named: Vec<(String, String, String)> = Vec::new(); // name, origin, source
    let own = dir.join("chat_template.jinja");
    if let Some(source) = text(&own)? {
        named.push(("default".into(), "chat_template.jinja".into(), source));
        let more = dir.join("additional_chat_templates");
        if more.is_dir() {
            let mut paths: Vec<_> = std::fs::read_dir(&more)
                .map_err(|e| Error::io(&more, e))?
                .filter_map(|entry| entry.ok().map(|e| e.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "jinja"))
                .collect();
            paths.sort();
            for path in paths {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(source) = text(&path)? {
                    named.push((name.clone(), format!("additional_chat_templates/{name}.jinja"), source));
                }
            }
        }
    } else if let Some(value) = config.get("chat_template").filter(|v| !v.is_null()) {
        collect("tokenizer_config.json", value, &mut named)?;
    } else if let Some(value) = object(&dir.join("chat_template.json"))?.get("chat_template") {
        collect("chat_template.json", value, &mut named)?;
    }
    if named.is_empty() {
        return Ok(None);
    }
    ChatTemplate::new(named, specials.clone()).map(Some)
}

/// A template or a list of `{"name", "template"}`.
fn collect(file: &str, value: &Value, named: &mut Vec<(String, String, String)>) -> Result<()> {
    let wrong = || Error::Template(format!("{file}: chat_template is neither a string nor a list of named templates"));
    match value {
        Value::String(source) => named.push(("default".into(), file.into(), source.clone())),
        Value::Array(list) => {
            for entry in list {
                let (Some(name), Some(source)) = (entry["name"].as_str(), entry["template"].as_str()) else {
                    return Err(wrong());
                };
                named.push((name.into(), format!("{file} ({name})"), source.into()));
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

fn text(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::file(path, "not UTF-8 text")),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, e)),
    }
}
