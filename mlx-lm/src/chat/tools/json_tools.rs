//! `{"name": ..., "arguments": {...}}` between `<tool_call>` tags (Qwen, Hermes and many more).
use serde_json::Value;

use super::{ToolCall, ToolParser, fail};
use crate::error::Result;

pub(super) struct JsonTools;

impl ToolParser for JsonTools {
    fn name(&self) -> &'static str {
        "json_tools"
    }

    fn markers(&self) -> (&'static str, &'static str) {
        ("<tool_call>", "</tool_call>")
    }

    fn parse(&self, text: &str, _: &[Value]) -> Result<Vec<ToolCall>> {
        let parsed: Value = serde_json::from_str(text.trim()).map_err(|e| fail(&format!("not JSON ({e})"), text))?;
        let list = match parsed {
            Value::Array(list) => list,
            one => vec![one],
        };
        let calls: Option<Vec<ToolCall>> = list.iter().map(object).collect();
        calls.filter(|c| !c.is_empty()).ok_or_else(|| fail("no name", text))
    }
}

/// A call as a JSON object with a name.
pub(super) fn object(call: &Value) -> Option<ToolCall> {
    let name = call.get("name")?.as_str()?.to_string();
    let arguments = call.get("arguments").cloned().unwrap_or_else(|| Value::Object(Default::default()));
    let id = call.get("id").and_then(Value::as_str).map(str::to_string);
    Some(ToolCall { name, arguments, id })
}
