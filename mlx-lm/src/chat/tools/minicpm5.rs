//! `<function name="n"><param name="k">v</param></function>`, values in CDATA where needed (MiniCPM5).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::minimax_m2::unquoted;
use super::{ToolCall, ToolParser, fail, group, matches, pattern, schema};
use crate::error::Result;

pub(super) struct MiniCpm5;

// The start marker is taken out before, so it is optional here.
static FUNCTION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(r#"(?s)(?:<function\s+)?(?:name\s*=\s*)?("[^"]*"|'[^']*'|[^\s"'<>]+)\s*>(.*?)(?:</function>|\z)"#)
});
static PARAMETER: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r#"(?s)<param\s+name\s*=\s*("[^"]*"|'[^']*'|[^\s"'<>]+)\s*>(.*?)</param>"#));
static CDATA: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?s)\A\s*<!\[CDATA\[(.*?)\]\]>\s*\z"));

impl ToolParser for MiniCpm5 {
    fn name(&self) -> &'static str {
        "minicpm5"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<function name=", "</function>")
    }

    fn parse(&self, text: &str, tools: &[Value]) -> Result<Vec<ToolCall>> {
        let mut calls = Vec::new();
        for function in matches(&FUNCTION, text) {
            let name = unquoted(group(&function, 1));
            let types = schema::properties(tools, name);
            let mut arguments = Map::new();
            for parameter in matches(&PARAMETER, group(&function, 2)) {
                let (key, value) = (unquoted(group(&parameter, 1)), group(&parameter, 2));
                let data = matches(&CDATA, value).next();
                let value = data.as_ref().map_or(value.trim(), |d| group(d, 1));
                let types = schema::types(types.and_then(|t| t.get(key)));
                arguments.insert(key.into(), schema::convert(value, &types).map_err(|e| fail(&e, text))?);
            }
            calls.push(ToolCall::new(name, arguments));
        }
        if calls.is_empty() { Err(fail("no function", text)) } else { Ok(calls) }
    }
}
