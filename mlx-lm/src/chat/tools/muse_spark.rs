//! `<atem:invoke name="n"><atem:parameter name="k">v</atem:parameter></atem:invoke>` (Muse Spark).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::{ToolCall, ToolParser, fail, group, matches, pattern};
use crate::error::Result;

pub(super) struct MuseSpark;

static INVOKE: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r#"<atem:invoke\b[^>]*?\bname="([^"]+)">"#));
static PARAMETER: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r#"(?s)<atem:parameter\b[^>]*?\bname="([^"]+)"[^>]*?>(.*?)</atem:parameter>"#));
static OPEN: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"\A<atem:parameter\b"));

const CLOSE: &str = "</atem:parameter>";

impl ToolParser for MuseSpark {
    fn name(&self) -> &'static str {
        "muse_spark"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<atem:function_calls>", "</atem:function_calls>")
    }

    fn parse(&self, text: &str, _: &[Value]) -> Result<Vec<ToolCall>> {
        let (mut calls, mut at) = (Vec::new(), 0);
        while let Some(invoke) = INVOKE.as_ref().and_then(|r| r.captures_at(text, at)) {
            let start = invoke.get(0).map_or(text.len(), |m| m.end());
            let (body, end) = body(&text[start..]);
            at = start + end;
            let mut arguments = Map::new();
            for parameter in matches(&PARAMETER, body) {
                let value = group(&parameter, 2);
                let value = serde_json::from_str(value).unwrap_or_else(|_| value.trim().into());
                arguments.insert(group(&parameter, 1).into(), value);
            }
            calls.push(ToolCall::new(group(&invoke, 1), arguments));
        }
        if calls.is_empty() { Err(fail("no function", text)) } else { Ok(calls) }
    }
}

/// What lies before the end tag of an invoke, and where to go on; an end tag inside a parameter is text.
fn body(text: &str) -> (&str, usize) {
    const END: &str = "</atem:invoke>";
    let mut at = 0;
    while let Some(next) = text[at..].find('<') {
        at += next;
        let rest = &text[at..];
        if rest.starts_with(END) {
            return (&text[..at], at + END.len());
        }
        let parameter = OPEN.as_ref().is_some_and(|r| r.is_match(rest));
        at += match rest.find(CLOSE).filter(|_| parameter) {
            Some(end) => end + CLOSE.len(),
            None => 1,
        };
    }
    (text, text.len())
}
