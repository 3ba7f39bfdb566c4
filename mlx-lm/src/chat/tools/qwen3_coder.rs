//! `<function=name><parameter=key>value</parameter></function>`, typed by the schema (Qwen3-Coder).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::literal::{lenient_json, literal};
use super::{ToolCall, ToolParser, fail, group, matches, pattern, schema, without_newlines};
use crate::error::Result;

pub(super) struct Qwen3Coder;

static FUNCTION: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?s)<function=(.*?)</function>\n?\z"));
static PARAMETER: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?s)<parameter=(.*?)</parameter>"));
static NAME: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"\A\s*([^\s<>]+)>?"));

impl ToolParser for Qwen3Coder {
    fn name(&self) -> &'static str {
        "qwen3_coder"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<tool_call>", "</tool_call>")
    }

    fn parse(&self, text: &str, tools: &[Value]) -> Result<Vec<ToolCall>> {
        let function = matches(&FUNCTION, text).next().ok_or_else(|| fail("no function", text))?;
        let (name, body) = split_name(group(&function, 1)).ok_or_else(|| fail("no function name", text))?;
        let types = schema::properties(tools, name);
        let mut arguments = Map::new();
        for parameter in matches(&PARAMETER, body) {
            let Some((key, value)) = split_name(group(&parameter, 1)) else { continue };
            let value = without_newlines(value);
            let value = convert(value, types.and_then(|t| t.get(key))).map_err(|e| fail(&e, text))?;
            arguments.insert(key.into(), value);
        }
        Ok(vec![ToolCall::new(name, arguments)])
    }
}

/// `name>rest`, or `name` and the rest.
fn split_name(text: &str) -> Option<(&str, &str)> {
    let found = matches(&NAME, text).next()?;
    Some((group(&found, 1), &text[found.get(0)?.end()..]))
}

fn convert(text: &str, schema: Option<&Value>) -> Result<Value, String> {
    if text.to_lowercase() == "null" {
        return Ok(Value::Null);
    }
    let Some(schema) = schema.filter(|s| s.as_object().is_none_or(|o| !o.is_empty())) else { return Ok(text.into()) };
    let Some(kind) = schema.get("type") else {
        let value: Option<Value> = serde_json::from_str(text).ok();
        return Ok(value.filter(|v| v.is_object() || v.is_array()).unwrap_or_else(|| text.into()));
    };
    let kind = kind.as_str().map_or_else(|| kind.to_string(), str::to_string).trim().to_lowercase();
    let starts = |names: &[&str]| names.iter().any(|n| kind.starts_with(n));
    match kind.as_str() {
        "string" | "str" | "text" | "varchar" | "char" | "enum" => Ok(text.into()),
        _ if starts(&["int", "uint", "long", "short", "unsigned"]) => schema::float(text)
            .and_then(schema::number)
            .filter(Value::is_i64)
            .ok_or_else(|| format!("{text:?} is no integer")),
        _ if starts(&["num", "float"]) => {
            schema::float(text).and_then(schema::number).ok_or_else(|| format!("{text:?} is no number"))
        }
        "boolean" | "bool" | "binary" => Ok((text.to_lowercase() == "true").into()),
        _ => {
            let structured = matches!(kind.as_str(), "object" | "array" | "arr") || starts(&["dict", "list"]);
            let json = if structured { lenient_json(text) } else { None };
            Ok(json.or_else(|| literal(text)).unwrap_or_else(|| text.into()))
        }
    }
}
