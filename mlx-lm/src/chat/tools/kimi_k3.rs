//! XTML calls: typed `argument` elements or one raw `json` block (Kimi K3).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::{ToolCall, ToolParser, fail, group, matches, pattern};
use crate::error::Result;

pub(super) struct KimiK3;

static CALL: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?s)<\|open\|>call(.*?)<\|sep\|>(.*?)<\|close\|>call<\|sep\|>"));
static ARGUMENT: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?s)<\|open\|>argument(.*?)<\|sep\|>(.*?)<\|close\|>argument<\|sep\|>"));
static JSON: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?s)<\|open\|>json.*?<\|sep\|>(.*?)<\|close\|>json<\|sep\|>"));
static ATTRIBUTE: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r#"(\w+)="([^"]*)""#));

impl ToolParser for KimiK3 {
    fn name(&self) -> &'static str {
        "kimi_k3"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<|open|>tools<|sep|>", "<|close|>tools<|sep|>")
    }

    /// Calls that cannot be read are left out, as long as one can.
    fn parse(&self, text: &str, _: &[Value]) -> Result<Vec<ToolCall>> {
        let calls: Vec<ToolCall> = matches(&CALL, text).filter_map(|f| single(group(&f, 1), group(&f, 2))).collect();
        if calls.is_empty() { Err(fail("no call", text)) } else { Ok(calls) }
    }
}

/// The last value of an attribute.
fn attribute(text: &str, key: &str) -> Option<String> {
    let value = matches(&ATTRIBUTE, text).filter(|f| group(f, 1) == key).last()?;
    Some(group(&value, 2).replace("&quot;", "\"").replace("&amp;", "&"))
}

fn single(attributes: &str, body: &str) -> Option<ToolCall> {
    let name = attribute(attributes, "tool").filter(|n| !n.is_empty())?;
    if let Some(json) = matches(&JSON, body).next() {
        let arguments: Map<String, Value> = serde_json::from_str(group(&json, 1)).ok()?;
        return Some(ToolCall::new(name, arguments));
    }
    let mut arguments = Map::new();
    for argument in matches(&ARGUMENT, body) {
        let (attributes, text) = (group(&argument, 1), group(&argument, 2));
        let is_text = attribute(attributes, "type").is_none_or(|t| t == "string");
        let value = if is_text { None } else { serde_json::from_str(text).ok() };
        arguments.insert(attribute(attributes, "key")?, value.unwrap_or_else(|| text.into()));
    }
    Some(ToolCall::new(name, arguments))
}
