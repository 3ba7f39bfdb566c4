//! `<invoke name="n"><parameter name="k">v</parameter></invoke>`, several at once, typed by the schema (MiniMax M2).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::{ToolCall, ToolParser, fail, group, matches, pattern, schema, without_newlines};
use crate::error::Result;

pub(super) struct MinimaxM2;

static INVOKE: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?s)<invoke name=(.*?)</invoke>"));
static PARAMETER: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?s)<parameter name=(.*?)</parameter>"));

impl ToolParser for MinimaxM2 {
    fn name(&self) -> &'static str {
        "minimax_m2"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<minimax:tool_call>", "</minimax:tool_call>")
    }

    fn parse(&self, text: &str, tools: &[Value]) -> Result<Vec<ToolCall>> {
        let mut calls = Vec::new();
        for invoke in matches(&INVOKE, text) {
            let invoke = group(&invoke, 1);
            let head = invoke.split('>').next().unwrap_or_default();
            if head.is_empty() {
                continue;
            }
            let name = unquoted(head);
            let types = schema::properties(tools, name);
            let mut arguments = Map::new();
            for parameter in matches(&PARAMETER, invoke) {
                let Some((key, value)) = group(&parameter, 1).split_once('>').filter(|(key, _)| !key.is_empty()) else {
                    continue;
                };
                let key = unquoted(key);
                let types = schema::types(types.and_then(|t| t.get(key)));
                let value = schema::convert(without_newlines(value.trim()), &types).map_err(|e| fail(&e, text))?;
                arguments.insert(key.into(), value);
            }
            calls.push(ToolCall::new(name, arguments));
        }
        if calls.is_empty() { Err(fail("no invoke", text)) } else { Ok(calls) }
    }
}

/// A name without the quotes around it.
pub(super) fn unquoted(name: &str) -> &str {
    let name = name.trim();
    let strip = |quote: char| name.strip_prefix(quote)?.strip_suffix(quote);
    strip('"').or_else(|| strip('\'')).unwrap_or(name)
}
