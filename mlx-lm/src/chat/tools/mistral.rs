//! `[{"name", "arguments"}]`, or `name[ARGS]{...}` repeated, up to the end of the answer (Mistral).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{ToolCall, ToolParser, fail, json_tools, pattern};
use crate::error::Result;

pub(super) struct Mistral;

static HEAD: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"([\w-]+)\s*\[ARGS\]\s*"));

impl ToolParser for Mistral {
    fn name(&self) -> &'static str {
        "mistral"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("[TOOL_CALLS]", "")
    }

    fn parse(&self, text: &str, _: &[Value]) -> Result<Vec<ToolCall>> {
        let wrong = || fail("neither a list of calls nor name[ARGS]{...}", text);
        if let Ok(Value::Array(list)) = serde_json::from_str(text)
            && !list.is_empty()
        {
            return list.iter().map(|call| listed(call).ok_or_else(wrong)).collect();
        }
        let (mut calls, mut at) = (Vec::new(), 0);
        while let Some(head) = HEAD.as_ref().and_then(|r| r.captures_at(text, at)) {
            let start = head.get(0).map_or(text.len(), |m| m.end());
            // One JSON value; what follows it is the next call.
            let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
            let Some(Ok(arguments)) = values.next() else { return Err(wrong()) };
            at = start + values.byte_offset();
            calls.push(ToolCall { name: super::group(&head, 1).into(), arguments, id: None });
        }
        if calls.is_empty() { Err(wrong()) } else { Ok(calls) }
    }
}

/// An entry of the list; its arguments are an object, or one as text.
fn listed(call: &Value) -> Option<ToolCall> {
    let mut call = json_tools::object(call)?;
    if let Some(text) = call.arguments.as_str() {
        call.arguments = serde_json::from_str(text).ok()?;
    }
    call.arguments.is_object().then_some(call)
}
