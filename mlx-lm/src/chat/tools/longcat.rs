//! GLM's form with `longcat_` tags, or JSON (LongCat).
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::literal::json_or_literal;
use super::{ToolCall, ToolParser, fail, group, json_tools, matches, pattern, schema};
use crate::error::Result;

pub(super) struct Longcat;

static ARGUMENT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(r"(?s)<longcat_arg_key>(.*?)</longcat_arg_key>(?:\\n|\s)*<longcat_arg_value>(.*?)</longcat_arg_value>")
});

impl ToolParser for Longcat {
    fn name(&self) -> &'static str {
        "longcat"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<longcat_tool_call>", "</longcat_tool_call>")
    }

    fn parse(&self, text: &str, tools: &[Value]) -> Result<Vec<ToolCall>> {
        let text = text.trim();
        if text.starts_with('{')
            && let Ok(value) = serde_json::from_str::<Value>(text)
        {
            return json_tools::object(&value).map(|call| vec![call]).ok_or_else(|| fail("no name", text));
        }
        let (name, _) = text.split_once("<longcat_arg_key>").ok_or_else(|| fail("no arguments", text))?;
        let name = name.trim();
        let types = schema::properties(tools, name);
        let mut arguments = Map::new();
        for found in matches(&ARGUMENT, text) {
            let (key, value) = (group(&found, 1).trim(), group(&found, 2).trim());
            let value = if schema::is_string(types, key) { value.into() } else { json_or_literal(value) };
            arguments.insert(key.into(), value);
        }
        Ok(vec![ToolCall::new(name, arguments)])
    }
}
