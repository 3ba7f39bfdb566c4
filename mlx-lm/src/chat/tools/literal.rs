//! Python literals (`ast.literal_eval`) as JSON, for arguments that models write in Python.
use serde_json::{Map, Number, Value};

/// Deeper literals are refused.
const DEPTH: usize = 100;

/// `json.loads(text)`, else `ast.literal_eval(text)`, else the text itself.
pub(super) fn json_or_literal(text: &str) -> Value {
    serde_json::from_str(text).ok().or_else(|| literal(text)).unwrap_or_else(|| Value::String(text.into()))
}

/// `json.loads(text, strict=False)`: control characters may stand in strings.
pub(super) fn lenient_json(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let (mut fixed, mut inside, mut escaped) = (String::with_capacity(text.len() + 16), false, false);
    for c in text.chars() {
        if inside && (c as u32) < 0x20 {
            fixed.push_str(&format!("\\u{:04x}", c as u32));
            escaped = false;
            continue;
        }
        match c {
            '"' if !escaped => inside = !inside,
            _ => {}
        }
        escaped = inside && c == '\\' && !escaped;
        fixed.push(c);
    }
    serde_json::from_str(&fixed).ok()
}

/// A Python literal: numbers, strings, lists, tuples, dicts, `True`, `False`, `None`. What JSON has no word for
/// (bytes, sets, complex numbers) is no literal here.
pub(super) fn literal(text: &str) -> Option<Value> {
    let mut parser = Parser::new(text, false);
    let value = parser.tuple_or_value()?;
    parser.space();
    parser.rest().is_empty().then_some(value)
}

/// `[f(a=1), g.h(b="x")]`: names and arguments; `None` when the text is anything else.
pub(super) fn calls(text: &str) -> Option<Vec<(String, Map<String, Value>)>> {
    let mut parser = Parser::new(text, true);
    parser.take('[').then_some(())?;
    let mut calls = Vec::new();
    while !parser.take(']') {
        if !calls.is_empty() {
            parser.take(',').then_some(())?;
            if parser.take(']') {
                break;
            }
        }
        let mut name = parser.name()?;
        while parser.take('.') {
            name = format!("{name}.{}", parser.name()?);
        }
        parser.take('(').then_some(())?;
        let mut arguments = Map::new();
        while !parser.take(')') {
            if !arguments.is_empty() {
                parser.take(',').then_some(())?;
                if parser.take(')') {
                    break;
                }
            }
            let key = parser.name()?;
            parser.take('=').then_some(())?;
            let value = parser.value()?;
            // Python refuses a keyword given twice.
            arguments.insert(key, value).is_none().then_some(())?;
        }
        calls.push((name, arguments));
    }
    parser.space();
    (parser.rest().is_empty() && !calls.is_empty()).then_some(calls)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Whether `true`, `false` and `null` count.
    json_names: bool,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, json_names: bool) -> Self {
        Self { text: text.trim(), at: 0, depth: 0, json_names }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            if !self.rest().starts_with('#') {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn take(&mut self, c: char) -> bool {
        self.space();
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn name(&mut self) -> Option<String> {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = &rest[..end];
        (!name.is_empty() && !name.starts_with(|c: char| c.is_numeric())).then_some(())?;
        self.at += end;
        Some(name.into())
    }

    /// A value, or several with commas between: a tuple without brackets.
    fn tuple_or_value(&mut self) -> Option<Value> {
        let first = self.value()?;
        if !self.take(',') {
            return Some(first);
        }
        let mut items = vec![first];
        self.space();
        while !self.rest().is_empty() {
            items.push(self.value()?);
            if !self.take(',') {
                break;
            }
            self.space();
        }
        Some(Value::Array(items))
    }

    fn value(&mut self) -> Option<Value> {
        self.depth += 1;
        let value = if self.depth > DEPTH { None } else { self.inner() };
        self.depth -= 1;
        value
    }

    fn inner(&mut self) -> Option<Value> {
        self.space();
        let rest = self.rest();
        match rest.chars().next()? {
            '[' => {
                self.at += 1;
                self.items(']').map(|(items, _)| Value::Array(items))
            }
            '(' => {
                self.at += 1;
                let (mut items, comma) = self.items(')')?;
                // Brackets around one value are just brackets.
                if items.len() == 1 && !comma { items.pop() } else { Some(Value::Array(items)) }
            }
            '{' => self.dict(),
            '+' | '-' => {
                self.at += 1;
                let value = self.value()?;
                value.is_number().then_some(())?;
                if rest.starts_with('+') {
                    return Some(value);
                }
                match (value.as_i64(), value.as_u64()) {
                    (Some(i), _) => Some(i.checked_neg()?.into()),
                    (None, Some(u)) => Some(i64::try_from(-i128::from(u)).ok()?.into()),
                    _ => Number::from_f64(-value.as_f64()?).map(Value::Number),
                }
            }
            '0'..='9' | '.' => self.number(),
            _ => self.string_or_name(),
        }
    }

    /// Values up to `end`; also whether a comma came last.
    fn items(&mut self, end: char) -> Option<(Vec<Value>, bool)> {
        let (mut items, mut comma) = (Vec::new(), false);
        while !self.take(end) {
            (items.is_empty() || comma).then_some(())?;
            items.push(self.value()?);
            comma = self.take(',');
        }
        Some((items, comma))
    }

    fn dict(&mut self) -> Option<Value> {
        self.at += 1;
        let (mut map, mut comma) = (Map::new(), true);
        while !self.take('}') {
            comma.then_some(())?;
            let key = match self.value()? {
                Value::String(s) => s,
                // As `json.dumps` writes keys.
                key @ (Value::Number(_) | Value::Bool(_) | Value::Null) => key.to_string(),
                _ => return None,
            };
            self.take(':').then_some(())?;
            let value = self.value()?;
            map.insert(key, value);
            comma = self.take(',');
        }
        Some(Value::Object(map))
    }

    fn number(&mut self) -> Option<Value> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let radix = match bytes.get(1).filter(|_| bytes[0] == b'0').map(u8::to_ascii_lowercase) {
            Some(b'x') => 16,
            Some(b'o') => 8,
            Some(b'b') => 2,
            _ => 10,
        };
        if radix != 10 {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            self.at += end;
            return i64::from_str_radix(&rest[2..end].replace('_', ""), radix).ok().map(Value::from);
        }
        let mut end = 0;
        while let Some(&b) = bytes.get(end) {
            let sign = matches!(b, b'+' | b'-') && end > 0 && matches!(bytes[end - 1], b'e' | b'E');
            if !(b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'_') || sign) {
                break;
            }
            end += 1;
        }
        // A letter behind is another kind of number, or no number.
        (!rest[end..].starts_with(|c: char| c.is_alphabetic())).then_some(())?;
        self.at += end;
        let text = rest[..end].replace('_', "");
        if text.bytes().all(|b| b.is_ascii_digit()) {
            // Python has no leading zeros, except zero itself.
            (!text.starts_with('0') || text.bytes().all(|b| b == b'0')).then_some(())?;
            return serde_json::from_str(if text.starts_with('0') { "0" } else { &text }).ok();
        }
        Number::from_f64(text.parse().ok()?).map(Value::Number)
    }

    fn string_or_name(&mut self) -> Option<Value> {
        let rest = self.rest();
        let prefix = rest.find(['\'', '"']).unwrap_or(rest.len());
        let (kind, raw) = match &rest[..prefix] {
            "" | "u" | "U" => (true, false),
            "r" | "R" => (true, true),
            _ => (false, false),
        };
        if kind && prefix < rest.len() {
            self.at += prefix;
            let mut text = self.string(raw)?;
            // Strings side by side are one string.
            loop {
                self.space();
                if !self.rest().starts_with(['\'', '"']) {
                    return Some(Value::String(text));
                }
                text.push_str(&self.string(false)?);
            }
        }
        Some(match self.name()?.as_str() {
            "True" => true.into(),
            "False" => false.into(),
            "None" => Value::Null,
            "true" if self.json_names => true.into(),
            "false" if self.json_names => false.into(),
            "null" if self.json_names => Value::Null,
            _ => return None,
        })
    }

    fn string(&mut self, raw: bool) -> Option<String> {
        let quote = &self.rest()[..1];
        let triple = quote.repeat(3);
        let end = if self.rest().starts_with(&triple) { triple.as_str() } else { quote };
        self.at += end.len();
        let mut text = String::new();
        loop {
            if self.rest().starts_with(end) {
                self.at += end.len();
                return Some(text);
            }
            let c = self.rest().chars().next()?;
            self.at += c.len_utf8();
            match c {
                '\n' if end.len() == 1 => return None,
                '\\' if raw => {
                    let next = self.rest().chars().next()?;
                    self.at += next.len_utf8();
                    text.extend(['\\', next]);
                }
                '\\' => self.escape(&mut text)?,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        let mut hex = |digits: usize| {
            let code = self.rest().get(..digits).and_then(|h| u32::from_str_radix(h, 16).ok());
            self.at += digits;
            code.and_then(char::from_u32)
        };
        let c = match c {
            '\n' => return Some(()),
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => hex(2)?,
            'u' => hex(4)?,
            'U' => hex(8)?,
            '0'..='7' => {
                let mut code = c.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = self.rest().chars().next().and_then(|d| d.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                char::from_u32(code)?
            }
            '\\' | '\'' | '"' => c,
            other => {
                text.push('\\');
                other
            }
        };
        text.push(c);
        Some(())
    }
}
