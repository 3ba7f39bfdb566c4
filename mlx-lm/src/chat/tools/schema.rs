//! Argument types from tool schemas.
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::literal::{lenient_json, literal};

/// `function.parameters.properties` of the tool of this name; empty when there is none.
pub(super) fn properties<'a>(tools: &'a [Value], name: &str) -> Option<&'a Map<String, Value>> {
    let function = tools.iter().filter_map(|t| t.get("function")).find(|f| f["name"] == name)?;
    function["parameters"]["properties"].as_object()
}

/// Whether the schema says plainly that the argument is a string.
pub(super) fn is_string(properties: Option<&Map<String, Value>>, argument: &str) -> bool {
    properties.and_then(|p| p.get(argument)).is_some_and(|schema| schema["type"] == "string")
}

/// `int(text)` and `float(text)`: spaces around and underscores between digits are allowed.
pub(super) fn int(text: &str) -> Option<i64> {
    plain_number(text)?.parse().ok()
}

pub(super) fn float(text: &str) -> Option<f64> {
    plain_number(text)?.parse().ok()
}

fn plain_number(text: &str) -> Option<String> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let digit = |i: Option<usize>| i.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
    let between = |(i, _)| digit(usize::checked_sub(i, 1)) && digit(Some(i + 1));
    text.match_indices('_').all(between).then(|| text.replace('_', ""))
}

/// A float as JSON, whole ones as integers; `None` when it is no finite number.
pub(super) fn number(x: f64) -> Option<Value> {
    if !x.is_finite() {
        return None;
    }
    if x.fract() == 0.0 && x.abs() < 9e18 {
        return Some(Value::from(x as i64));
    }
    serde_json::Number::from_f64(x).map(Value::Number)
}

/// All types a JSON schema allows, through `anyOf`, `oneOf`, `allOf`, lists of types and enum values; a schema that
/// says nothing means string.
pub(super) fn types(schema: Option<&Value>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(schema.unwrap_or(&Value::Null), &mut found);
    found
}

fn collect(schema: &Value, found: &mut BTreeSet<String>) {
    let mut here = BTreeSet::new();
    match &schema["type"] {
        Value::String(t) => {
            here.insert(t.to_lowercase());
        }
        Value::Array(list) => here.extend(list.iter().filter_map(Value::as_str).map(str::to_lowercase)),
        _ => {}
    }
    for value in schema["enum"].as_array().into_iter().flatten() {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        here.insert(kind.to_string());
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        schema[choice].as_array().into_iter().flatten().for_each(|schema| collect(schema, &mut here));
    }
    if here.is_empty() {
        here.insert("string".into());
    }
    found.extend(here);
}

/// `text` as the most specific of `types` it fits: integer, number, boolean, object or array, string. `null` is null
/// whatever the types. Errors: a number too large for any type.
pub(super) fn convert(text: &str, types: &BTreeSet<String>) -> Result<Value, String> {
    let lower = text.to_lowercase();
    let any = |names: &[&str]| names.iter().any(|n| types.contains(*n));
    if lower == "null" || (any(&["null"]) && matches!(lower.as_str(), "none" | "nil")) {
        return Ok(Value::Null);
    }
    if any(&["integer", "int"])
        && let Some(i) = int(text)
    {
        return Ok(i.into());
    }
    if any(&["number", "float"])
        && let Some(x) = float(text)
        && !x.is_nan()
    {
        return number(x).ok_or_else(|| format!("{text} is no finite number"));
    }
    if any(&["boolean", "bool"]) {
        match lower.trim() {
            "true" | "1" | "yes" | "on" => return Ok(true.into()),
            "false" | "0" | "no" | "off" => return Ok(false.into()),
            _ => {}
        }
    }
    if any(&["object", "array"])
        && let Some(value) = lenient_json(text).or_else(|| literal(text))
    {
        return Ok(value);
    }
    if any(&["string", "str", "text"]) {
        return Ok(text.into());
    }
    Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into()))
}
