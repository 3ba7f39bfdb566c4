//! `call:name{key:<escape>text<escape>,other:1}` (FunctionGemma).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::{ToolCall, ToolParser, fail, group, matches, pattern};
use crate::error::Result;

pub(super) struct FunctionGemma;

const QUOTE: &str = "<escape>";

static CALL: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?s)call:(\w+)\{(.*?)\}"));

impl ToolParser for FunctionGemma {
    fn name(&self) -> &'static str {
        "function_gemma"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<start_function_call>", "<end_function_call>")
    }

    fn parse(&self, text: &str, _: &[Value]) -> Result<Vec<ToolCall>> {
        let call = matches(&CALL, text).next().ok_or_else(|| fail("no function", text))?;
        let mut arguments = Map::new();
        let mut rest = group(&call, 2);
        while !rest.is_empty() {
            let (key, value) = rest.split_once(':').ok_or_else(|| fail("an argument without a value", text))?;
            if let Some(quoted) = value.strip_prefix(QUOTE) {
                let (inside, after) = quoted.split_once(QUOTE).ok_or_else(|| fail("an open string", text))?;
                arguments.insert(key.into(), inside.into());
                // The comma behind.
                let mut after = after.chars();
                after.next();
                rest = after.as_str();
                continue;
            }
            let (value, after) = value.split_once(',').unwrap_or((value, ""));
            arguments.insert(key.into(), serde_json::from_str(value).unwrap_or_else(|_| value.into()));
            rest = after;
        }
        Ok(vec![ToolCall::new(group(&call, 1), arguments)])
    }
}
