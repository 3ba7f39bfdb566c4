//! `[f(a=1), g()]`: calls in Python, containers also in JSON (LFM2 and others).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::literal::{calls, literal};
use super::{ToolCall, ToolParser, fail, group, matches, pattern};
use crate::error::Result;

pub(super) struct Pythonic;

// For what is almost Python.
static CALL: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?s)\[([\w.]+)\((.*?)\)\]"));
static ARGUMENT: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r#"(?s)(\w+)=(?:"([^"]*)"|'([^']*)'|([^,]+))(?:,\s*|\z)"#));

impl ToolParser for Pythonic {
    fn name(&self) -> &'static str {
        "pythonic"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<|tool_call_start|>", "<|tool_call_end|>")
    }

    fn parse(&self, text: &str, _: &[Value]) -> Result<Vec<ToolCall>> {
        if let (Some(start), Some(end)) = (text.find('['), text.rfind(']'))
            && start < end
            && let Some(calls) = calls(&text[start..=end])
        {
            return Ok(calls.into_iter().map(|(name, arguments)| ToolCall::new(name, arguments)).collect());
        }
        let call = matches(&CALL, text).next().ok_or_else(|| fail("no function", text))?;
        let mut arguments = Map::new();
        for found in matches(&ARGUMENT, group(&call, 2)) {
            let text = match found.get(4) {
                Some(bare) => bare.as_str().trim(),
                None => found.get(2).or(found.get(3)).map_or("", |m| m.as_str()),
            };
            arguments.insert(group(&found, 1).into(), literal(text).unwrap_or_else(|| text.into()));
        }
        Ok(vec![ToolCall::new(group(&call, 1), arguments)])
    }
}
