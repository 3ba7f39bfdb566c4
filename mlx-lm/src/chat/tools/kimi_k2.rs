//! `functions.name:0<|tool_call_argument_begin|>{...}`, several in a section; the id is kept (Kimi K2).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::literal::json_or_literal;
use super::{ToolCall, ToolParser, fail, group, matches, pattern};
use crate::error::Result;

pub(super) struct KimiK2;

static CALL: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?s)<\|tool_call_begin\|>(.*?)<\|tool_call_end\|>"));
static HEAD: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?s)\A\s*((?:functions\.)?(.+?):\d+)\s*<\|tool_call_argument_begin\|>\s*(.*)\z"));

impl ToolParser for KimiK2 {
    fn name(&self) -> &'static str {
        "kimi_k2"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
    }

    fn parse(&self, text: &str, _: &[Value]) -> Result<Vec<ToolCall>> {
        let inside: Vec<&str> = matches(&CALL, text).map(|found| group(&found, 1)).collect();
        if inside.is_empty() { Ok(vec![single(text)?]) } else { inside.into_iter().map(single).collect() }
    }
}

fn single(text: &str) -> Result<ToolCall> {
    let head = matches(&HEAD, text).next().ok_or_else(|| fail("no call", text))?;
    let arguments = json_or_literal(group(&head, 3));
    Ok(ToolCall { name: group(&head, 2).into(), arguments, id: Some(group(&head, 1).into()) })
}
