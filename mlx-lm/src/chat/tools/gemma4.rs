//! `call:name{key:<|"|>text<|"|>,other:[1,{k:true}]}`: JSON with bare keys and its own quotes (Gemma 4).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{ToolCall, ToolParser, fail, group, pattern};
use crate::error::Result;

pub(super) struct Gemma4;

const QUOTE: &str = "<|\"|>";

static HEAD: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"call:([\w-]+)\{"));

impl ToolParser for Gemma4 {
    fn name(&self) -> &'static str {
        "gemma4"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<|tool_call>", "<tool_call|>")
    }

    fn parse(&self, text: &str, _: &[Value]) -> Result<Vec<ToolCall>> {
        let (mut calls, mut at) = (Vec::new(), 0);
        while let Some(head) = HEAD.as_ref().and_then(|r| r.captures_at(text, at)) {
            let Some(whole) = head.get(0) else { break };
            let start = whole.end() - 1;
            let Some(len) = balanced(&text[start..]) else {
                at = whole.end();
                continue;
            };
            at = start + len;
            let json = to_json(&text[start..at]);
            let arguments = serde_json::from_str(&json).map_err(|e| fail(&format!("arguments: {e}"), text))?;
            calls.push(ToolCall { name: group(&head, 1).into(), arguments, id: None });
        }
        if calls.is_empty() { Err(fail("no call", text)) } else { Ok(calls) }
    }
}

/// The length of the braced group that starts `text`; braces inside quotes do not count.
fn balanced(text: &str) -> Option<usize> {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(c) = text[at..].chars().next() {
        if text[at..].starts_with(QUOTE) {
            let inside = at + QUOTE.len();
            at = inside + text[inside..].find(QUOTE)? + QUOTE.len();
            continue;
        }
        at += c.len_utf8();
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Quotes the bare keys and respells the strings.
fn to_json(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(inside) = rest.strip_prefix(QUOTE)
            && let Some(end) = inside.find(QUOTE)
        {
            json.push_str(&Value::from(&inside[..end]).to_string());
            rest = &inside[end + QUOTE.len()..];
            continue;
        }
        json.push(c);
        rest = &rest[c.len_utf8()..];
        if matches!(c, '{' | ',') {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            if end > 0 && rest[end..].starts_with(':') {
                json.push_str(&format!("\"{}\":", &rest[..end]));
                rest = &rest[end + 1..];
            }
        }
    }
    json
}
