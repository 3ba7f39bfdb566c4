//! JSON as Python's `json` module reads it: bare `NaN`, `Infinity` and `-Infinity` are numbers. `serde_json` has no
//! value for them, so they become `{"__float__": "Infinity"}`, the form mlx-lm itself writes.
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Largest JSON side file that is read (a tokenizer is at most a few tens of MB).
const MAX_BYTES: u64 = 256 << 20;

/// Reads a JSON object from a file; the error names the file and the line.
pub fn read(path: &Path) -> Result<Map<String, Value>> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| Error::io(path, e))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::file(path, "is larger than 256 MiB"));
    }
    match parse(text.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::file(path, format!("expected a JSON object, found {}", kind(&other)))),
        Err(e) => Err(Error::file(path, format!("not valid JSON: {e}"))),
    }
}

/// Parses JSON text, bare non-finite numbers allowed.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    match tag_floats(text) {
        Some(tagged) => serde_json::from_str(&tagged),
        None => serde_json::from_str(text),
    }
}

/// Replaces bare non-finite numbers outside of strings; `None` when there are none.
fn tag_floats(text: &str) -> Option<String> {
    if !text.contains("NaN") && !text.contains("Infinity") {
        return None;
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let end = string_end(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        match ["-Infinity", "Infinity", "NaN"].iter().find(|w| rest.starts_with(**w)) {
            Some(word) => {
                out.push_str(&format!("{{\"__float__\":\"{word}\"}}"));
                rest = &rest[word.len()..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    Some(out)
}

/// Byte length of the string literal that `text` starts with, or of all of `text` if it never ends.
fn string_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut i = 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    text.len()
}

/// The JSON kind of a value, for messages.
pub(super) fn kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(o) if o.contains_key("__float__") => "a number",
        Value::Object(_) => "an object",
    }
}

/// A number, tagged non-finite ones included.
pub(super) fn float(v: &Value) -> Option<f64> {
    match v {
        Value::Number(n) => n.as_f64(),
        Value::Object(o) => match o.get("__float__")?.as_str()? {
            "Infinity" | "inf" => Some(f64::INFINITY),
            "-Infinity" | "-inf" => Some(f64::NEG_INFINITY),
            "NaN" | "nan" => Some(f64::NAN),
            _ => None,
        },
        _ => None,
    }
}
