//! `name<arg_key>k</arg_key><arg_value>v</arg_value>...` and what GLM 4.7 writes instead of it.
use std::sync::LazyLock;

use minijinja::Value as Printed;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::literal::json_or_literal;
use super::{ToolCall, ToolParser, group, matches, pattern, schema};
use crate::chat::python;
use crate::error::Result;

pub(super) struct Glm47;

static ARGUMENT: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?s)<arg_key>(.*?)</arg_key>(?:\\n|\s)*<arg_value>(.*?)</arg_value>"));

impl ToolParser for Glm47 {
    fn name(&self) -> &'static str {
        "glm47"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<tool_call>", "</tool_call>")
    }

    fn parse(&self, text: &str, tools: &[Value]) -> Result<Vec<ToolCall>> {
        let Some((name, _)) = text.split_once("<arg_key>") else {
            let call = json_call(text, tools).or_else(|| plain_call(text, tools));
            return Ok(vec![call.unwrap_or_else(|| raw("unknown", text.trim()))]);
        };
        let name = name.trim();
        let types = schema::properties(tools, name);
        let mut arguments = Map::new();
        for found in matches(&ARGUMENT, text) {
            let (key, value) = (group(&found, 1).trim(), group(&found, 2).trim());
            let value = if schema::is_string(types, key) { value.into() } else { json_or_literal(value) };
            arguments.insert(key.into(), value);
        }
        Ok(vec![ToolCall::new(name, arguments)])
    }
}

fn raw(name: &str, text: &str) -> ToolCall {
    ToolCall { name: name.into(), arguments: json!({ "raw": text }), id: None }
}

/// A call written as JSON, in one of the shapes seen.
fn json_call(text: &str, tools: &[Value]) -> Option<ToolCall> {
    let mut parsed: Value = serde_json::from_str(text.trim()).ok()?;
    if let Some(first) = parsed.as_array().and_then(|l| l.first()).filter(|f| f.is_object()) {
        parsed = first.clone();
    }
    let object = parsed.as_object()?;
    let (mut name, mut arguments) = match object.get("arguments") {
        Some(arguments) if object.contains_key("name") => (object["name"].clone(), arguments.clone()),
        Some(arguments) if object.contains_key("function") => (object["function"].clone(), arguments.clone()),
        _ => {
            let tool = object.get("tool")?.as_object()?;
            (tool.get("name")?.clone(), tool.get("arguments").cloned().unwrap_or_default())
        }
    };
    if let Some(function) = name.as_object().cloned() {
        let empty = match &arguments {
            Value::Null | Value::Bool(false) => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        if empty {
            arguments = function.get("arguments").cloned().unwrap_or_default();
        }
        name = function.get("name")?.clone();
    }
    if let Some(text) = arguments.as_str() {
        arguments = json_or_literal(text);
    }
    let name = name.as_str()?;
    match arguments {
        Value::Null => Some(ToolCall::new(name, Map::new())),
        Value::Object(arguments) => Some(ToolCall::new(name, normalize(name, arguments, tools))),
        _ => None,
    }
}

/// Strings where the schema says so, values elsewhere.
fn normalize(name: &str, arguments: Map<String, Value>, tools: &[Value]) -> Map<String, Value> {
    let types = schema::properties(tools, name);
    let fix = |(key, value): (String, Value)| {
        let value = match (schema::is_string(types, &key), value) {
            (true, Value::String(s)) => Value::String(s),
            (true, other) => {
                let mut text = String::new();
                python::str(&Printed::from_serialize(&other), &mut text, usize::MAX);
                Value::String(text)
            }
            (false, Value::String(s)) => json_or_literal(&s),
            (false, other) => other,
        };
        (key, value)
    };
    arguments.into_iter().map(fix).collect()
}

/// `name {json}`, `name` and JSON on the next line, or `name k=v k=v`.
fn plain_call(text: &str, tools: &[Value]) -> Option<ToolCall> {
    let text = text.trim();
    if let Some((first, rest)) = text.split_once('\n')
        && let (name, Value::Object(arguments)) = (first.trim(), json_or_literal(rest.trim()))
        && !name.is_empty()
    {
        return Some(ToolCall::new(name, normalize(name, arguments, tools)));
    }
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim();
    if rest.is_empty() {
        return Some(ToolCall::new(name, Map::new()));
    }
    if let Value::Object(arguments) = json_or_literal(rest) {
        return Some(ToolCall::new(name, normalize(name, arguments, tools)));
    }
    Some(match key_values(rest, name, tools) {
        Some(arguments) => ToolCall::new(name, arguments),
        None => raw(name, rest),
    })
}

fn key_values(text: &str, name: &str, tools: &[Value]) -> Option<Map<String, Value>> {
    let words = text.contains('=').then(|| shell_words(text)).flatten().filter(|w| !w.is_empty())?;
    let types = schema::properties(tools, name);
    let mut arguments = Map::new();
    for word in words {
        let (key, value) = word.split_once('=')?;
        let key = key.trim();
        if key.is_empty() {
            return None;
        }
        let value = if schema::is_string(types, key) { value.into() } else { json_or_literal(value) };
        arguments.insert(key.into(), value);
    }
    Some(arguments)
}

/// Words as a POSIX shell splits them (`shlex.split`); `None` for an open quote.
fn shell_words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word): (Vec<String>, Option<String>) = (Vec::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(chars.next()?),
            '\'' => loop {
                let word = word.get_or_insert_default();
                match chars.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                let word = word.get_or_insert_default();
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        c @ ('"' | '\\') => word.push(c),
                        c => word.extend(['\\', c]),
                    },
                    c => word.push(c),
                }
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}
