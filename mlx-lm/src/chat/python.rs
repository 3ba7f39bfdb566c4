//! How Python writes values: `str`, `repr` and `json.dumps`, which is what templates print.
use std::fmt::Write;

use minijinja::Value;
use minijinja::value::ValueKind;

/// `str(value)` into `out`; undefined prints nothing. Lists stop once `out` is longer than `limit`.
pub(super) fn str(value: &Value, out: &mut String, limit: usize) {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        _ => repr(value, out, limit),
    }
}

/// `repr(value)` into `out`.
fn repr(value: &Value, out: &mut String, limit: usize) {
    if out.len() > limit {
        return;
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(value, out),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&item, out, limit);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, out, limit);
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), out, limit);
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn number(value: &Value, out: &mut String) {
    if value.is_integer() {
        let _ = write!(out, "{value}");
    } else {
        out.push_str(&float(f64::try_from(value.clone()).unwrap_or(f64::NAN)));
    }
}

/// Python's float: shortest digits, an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if x != 0.0 && !(1e-4..1e16).contains(&x.abs()) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(e) => ('-', e),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{x:?}")
}

fn quoted(s: &str, out: &mut String) {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in s.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// The arguments of `json.dumps`.
pub(super) struct Dumps {
    pub(super) ascii: bool,
    pub(super) indent: Option<String>,
    pub(super) item: String,
    pub(super) key: String,
    pub(super) sort: bool,
}

impl Dumps {
    /// `json.dumps(value)`; an error names what JSON cannot say. Stops early once `limit` bytes are exceeded.
    pub(super) fn write(&self, value: &Value, limit: usize) -> Result<String, String> {
        let mut out = String::new();
        self.value(value, 0, limit, &mut out)?;
        Ok(out)
    }

    fn value(&self, value: &Value, depth: usize, limit: usize, out: &mut String) -> Result<(), String> {
        if out.len() > limit {
            return Err("output is too large".into());
        }
        if depth > 200 {
            return Err("value is nested too deeply for JSON".into());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => number(value, out),
            ValueKind::Number => {
                let x = f64::try_from(value.clone()).unwrap_or(f64::NAN);
                match x {
                    _ if x.is_nan() => out.push_str("NaN"),
                    f64::INFINITY => out.push_str("Infinity"),
                    f64::NEG_INFINITY => out.push_str("-Infinity"),
                    _ => out.push_str(&float(x)),
                }
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                out.push('[');
                let mut empty = true;
                for item in value.try_iter().map_err(|e| e.to_string())? {
                    self.between(empty, depth + 1, out);
                    empty = false;
                    self.value(&item, depth + 1, limit, out)?;
                }
                self.close(empty, depth, out);
                out.push(']');
            }
            ValueKind::Map => {
                out.push('{');
                let mut keys: Vec<Value> = value.try_iter().map_err(|e| e.to_string())?.collect();
                if self.sort {
                    keys.sort();
                }
                for (i, key) in keys.iter().enumerate() {
                    self.between(i == 0, depth + 1, out);
                    match key.kind() {
                        ValueKind::String => self.string(key.as_str().unwrap_or_default(), out),
                        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                            out.push('"');
                            self.value(key, depth + 1, limit, out)?;
                            out.push('"');
                        }
                        kind => return Err(format!("a JSON key cannot be {kind}")),
                    }
                    out.push_str(&self.key);
                    self.value(&value.get_item(key).unwrap_or_default(), depth + 1, limit, out)?;
                }
                self.close(keys.is_empty(), depth, out);
                out.push('}');
            }
            kind => return Err(format!("{kind} is not JSON serializable")),
        }
        Ok(())
    }

    fn between(&self, first: bool, depth: usize, out: &mut String) {
        if !first {
            out.push_str(&self.item);
        }
        self.newline(depth, out);
    }

    fn close(&self, empty: bool, depth: usize, out: &mut String) {
        if !empty {
            self.newline(depth, out);
        }
    }

    fn newline(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, s: &str, out: &mut String) {
        out.push('"');
        for c in s.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && c as u32 > 0x7e) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
