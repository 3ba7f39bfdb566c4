//! The jinja environment of chat templates: what Hugging Face adds to Jinja2, Python's way of printing, and limits
//! that keep a hostile template from taking all time or memory.
//!
//! `minijinja` meters instructions (fuel). What can blow up within few of them (joining, repeating, replacing text)
//! is taken over by functions here that draw on a [`Budget`]: the compiled `~`, `+`, `*` and `%` become calls.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, FormatStyle, State, UndefinedBehavior, Value};

use super::python::{self, Dumps};
use super::strftime::strftime;

/// Instructions one rendering may run.
pub(super) const FUEL: u64 = 1_000_000;
/// Bytes of text one rendering may build, intermediate strings included.
pub(super) const WORK: usize = 64 << 20;

/// Bytes that are still allowed.
#[derive(Clone)]
pub(super) struct Budget(Arc<AtomicUsize>);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> Result<(), Error> {
        let left = self.0.load(Ordering::Relaxed);
        match left.checked_sub(bytes) {
            Some(rest) => {
                self.0.store(rest, Ordering::Relaxed);
                Ok(())
            }
            None => Err(invalid("the template builds too much text")),
        }
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// An environment set up as transformers sets up Jinja2.
pub(super) fn environment(budget: &Budget, now: SystemTime) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(200);
    let work = budget.clone();
    env.set_formatter(move |out, _, value| {
        if let Some(text) = value.as_str() {
            work.take(text.len())?;
            return out.write_str(text).map_err(|_| invalid("cannot write"));
        }
        let text = printed(&work, value)?;
        out.write_str(&text).map_err(|_| invalid("cannot write"))
    });
    let work = budget.clone();
    env.set_unknown_method_callback(move |state, value, name, args| method(&work, state, value, name, args));

    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let mut text = String::new();
        python::str(&message, &mut text, 1 << 16);
        Err(invalid(text))
    });
    env.add_function("strftime_now", move |format: &str| strftime(format, now));
    operators(&mut env, budget);
    filters(&mut env, budget);
    env.add_test("sequence", |v: Value| matches!(v.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map));
    env.remove_global("debug");
    env
}

/// `str(value)`, paid for.
fn printed(budget: &Budget, value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    python::str(value, &mut text, budget.left());
    budget.take(text.len())?;
    Ok(text)
}

/// Names of the functions that stand in for operators; no template can spell them.
const CONCAT: &str = "operator ~";
const ADD: &str = "operator +";
const MUL: &str = "operator *";
const REM: &str = "operator %";
const SLICE: &str = "operator [:]";
/// A folded constant may hold this many items.
const MAX_CONST: usize = 100_000;

/// Turns the operators that can build large values into calls. Errors: a constant that is large by itself.
pub(super) fn meter(code: &mut Instructions<'_>) -> Result<(), Error> {
    for at in 0..code.len() as u32 {
        let Some(instruction) = code.get_mut(at) else { continue };
        let (name, arguments) = match instruction {
            Instruction::StringConcat => (CONCAT, 2),
            Instruction::Add => (ADD, 2),
            Instruction::Mul => (MUL, 2),
            Instruction::Rem => (REM, 2),
            Instruction::Slice => (SLICE, 4),
            Instruction::LoadConst(value) if value.len().is_some_and(|n| is_list(value) && n > MAX_CONST) => {
                return Err(invalid("the template builds too much text"));
            }
            _ => continue,
        };
        *instruction = Instruction::CallFunction(name, Some(arguments));
    }
    Ok(())
}

/// Two numbers, as integers or as floats.
enum Numbers {
    Int(i128, i128),
    Float(f64, f64),
}

fn numbers(a: &Value, b: &Value) -> Option<Numbers> {
    let int = |v: &Value| match v.kind() {
        ValueKind::Bool => Some(i128::from(v.is_true())),
        ValueKind::Number if v.is_integer() => i128::try_from(v.clone()).ok(),
        _ => None,
    };
    if let (Some(a), Some(b)) = (int(a), int(b)) {
        return Some(Numbers::Int(a, b));
    }
    let float = |v: &Value| match v.kind() {
        ValueKind::Number => f64::try_from(v.clone()).ok(),
        _ => int(v).map(|i| i as f64),
    };
    Some(Numbers::Float(float(a)?, float(b)?))
}

fn is_list(v: &Value) -> bool {
    matches!(v.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn integer(value: Option<i128>, a: &Value, op: &str, b: &Value) -> Result<Value, Error> {
    value.and_then(|v| i64::try_from(v).ok()).map(Value::from).ok_or_else(|| unsupported(a, op, b))
}

fn unsupported(a: &Value, op: &str, b: &Value) -> Error {
    invalid(format!("unsupported operands: {} {op} {}", a.kind(), b.kind()))
}

fn operators(env: &mut Environment<'static>, budget: &Budget) {
    let work = budget.clone();
    env.add_function(CONCAT, move |a: Value, b: Value| -> Result<Value, Error> {
        let mut text = String::new();
        python::str(&a, &mut text, work.left());
        python::str(&b, &mut text, work.left());
        work.take(text.len())?;
        Ok(Value::from(text))
    });
    let work = budget.clone();
    env.add_function(ADD, move |a: Value, b: Value| -> Result<Value, Error> {
        if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
            work.take(a.len() + b.len())?;
            return Ok(Value::from([a, b].concat()));
        }
        if is_list(&a) && is_list(&b) {
            let list: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).collect();
            work.take(list.len() * size_of::<Value>())?;
            return Ok(Value::from(list));
        }
        match numbers(&a, &b) {
            Some(Numbers::Int(x, y)) => integer(x.checked_add(y), &a, "+", &b),
            Some(Numbers::Float(x, y)) => Ok(Value::from(x + y)),
            None => Err(unsupported(&a, "+", &b)),
        }
    });
    let work = budget.clone();
    env.add_function(MUL, move |a: Value, b: Value| -> Result<Value, Error> {
        if let Some(n) = numbers(&a, &b) {
            return match n {
                Numbers::Int(x, y) => integer(x.checked_mul(y), &a, "*", &b),
                Numbers::Float(x, y) => Ok(Value::from(x * y)),
            };
        }
        let (what, times) = if a.is_integer() { (&b, &a) } else { (&a, &b) };
        let times = i64::try_from(times.clone()).map_err(|_| unsupported(&a, "*", &b))?.max(0) as usize;
        if let Some(text) = what.as_str() {
            work.take(text.len().saturating_mul(times))?;
            return Ok(Value::from(text.repeat(times)));
        }
        if is_list(what) {
            let list: Vec<Value> = what.try_iter()?.collect();
            work.take(list.len().saturating_mul(times).saturating_mul(size_of::<Value>()))?;
            let count = list.len() * times;
            return Ok(Value::from(list.into_iter().cycle().take(count).collect::<Vec<_>>()));
        }
        Err(unsupported(&a, "*", &b))
    });
    let work = budget.clone();
    env.add_function(REM, move |a: Value, b: Value| -> Result<Value, Error> {
        if let Some(text) = a.as_str() {
            let args: Vec<Value> = if is_list(&b) { b.try_iter()?.collect() } else { vec![b.clone()] };
            return format(&work, FormatStyle::Printf, text, &args);
        }
        // Python's remainder has the sign of the divisor.
        match numbers(&a, &b) {
            Some(Numbers::Int(_, 0)) => Err(invalid("modulo by zero")),
            Some(Numbers::Int(x, y)) => {
                integer(x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }), &a, "%", &b)
            }
            Some(Numbers::Float(x, y)) => Ok(Value::from(x - y * (x / y).floor())),
            None => Err(unsupported(&a, "%", &b)),
        }
    });
    let work = budget.clone();
    env.add_function(SLICE, move |value: Value, start: Value, stop: Value, step: Value| -> Result<Value, Error> {
        if let Some(text) = value.as_str() {
            let picked: String = slice(text.chars().collect(), &start, &stop, &step)?.into_iter().collect();
            work.take(text.len())?;
            return Ok(Value::from(picked));
        }
        if !is_list(&value) {
            return Err(invalid(format!("{} cannot be sliced", value.kind())));
        }
        let list: Vec<Value> = value.try_iter()?.collect();
        work.take(list.len() * size_of::<Value>())?;
        slice(list, &start, &stop, &step).map(Value::from)
    });
}

/// Python's `items[start:stop:step]`.
fn slice<T: Clone>(items: Vec<T>, start: &Value, stop: &Value, step: &Value) -> Result<Vec<T>, Error> {
    let bound = |v: &Value| match v.kind() {
        ValueKind::None | ValueKind::Undefined => Ok(None),
        _ => v.as_i64().map(Some).ok_or_else(|| invalid("slice bounds must be integers")),
    };
    let step = bound(step)?.unwrap_or(1);
    let len = items.len() as i64;
    // Bounds count from the end when negative, then stop at the ends; backwards the ends are one lower.
    let (low, high) = if step < 0 { (-1, len - 1) } else { (0, len) };
    let clip = |v: Option<i64>, default: i64| match v {
        None => default,
        Some(v) if v < 0 => v.saturating_add(len).max(low),
        Some(v) => v.min(high),
    };
    let (start, stop) = (bound(start)?, bound(stop)?);
    let (mut at, stop) = match step {
        0 => return Err(invalid("slice step cannot be zero")),
        1.. => (clip(start, 0), clip(stop, len)),
        _ => (clip(start, len - 1), clip(stop, -1)),
    };
    let mut picked = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        picked.extend(usize::try_from(at).ok().and_then(|i| items.get(i).cloned()));
        at = at.saturating_add(step);
    }
    Ok(picked)
}

/// `str.format` or `%`; field widths are bounded, as a width costs its digits only.
fn format(budget: &Budget, style: FormatStyle, text: &str, args: &[Value]) -> Result<Value, Error> {
    let mut digits = 0;
    for b in text.bytes() {
        digits = if b.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 4 {
            return Err(invalid("format width is too large"));
        }
    }
    let done = minijinja::format_filter(style, text, args)?;
    budget.take(done.len())?;
    Ok(Value::from(done))
}

fn replace(budget: &Budget, text: &str, from: &str, to: &str, times: Option<usize>) -> Result<Value, Error> {
    let found = text.matches(from).count().min(times.unwrap_or(usize::MAX));
    budget.take(text.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(Value::from(match times {
        Some(n) => text.replacen(from, to, n),
        None => text.replace(from, to),
    }))
}

fn join(budget: &Budget, items: &Value, separator: &str) -> Result<Value, Error> {
    let mut text = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        let start = text.len();
        if i > 0 {
            text.push_str(separator);
        }
        python::str(&item, &mut text, start.saturating_add(budget.left()));
        budget.take(text.len() - start)?;
    }
    Ok(Value::from(text))
}

fn filters(env: &mut Environment<'static>, budget: &Budget) {
    let work = budget.clone();
    env.add_filter("tojson", move |value: Value, indent: Option<Value>, kwargs: Kwargs| -> Result<Value, Error> {
        let indent = match indent {
            Some(v) => v,
            None => kwargs.get::<Option<Value>>("indent")?.unwrap_or_default(),
        };
        let indent = match indent.kind() {
            ValueKind::Undefined | ValueKind::None => None,
            ValueKind::String => indent.as_str().map(str::to_string),
            _ => Some(" ".repeat(usize::try_from(indent)?.min(64))),
        };
        let mut separators: Vec<String> = kwargs.get::<Option<Vec<String>>>("separators")?.unwrap_or_default();
        if separators.len() != 2 {
            separators = vec![if indent.is_some() { "," } else { ", " }.into(), ": ".into()];
        }
        let [item, key] = [separators.swap_remove(0), separators.swap_remove(0)];
        let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        let sort = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
        kwargs.assert_all_used()?;
        let dumps = Dumps { ascii, indent, item, key, sort };
        let text = dumps.write(&value, work.left()).map_err(invalid)?;
        work.take(text.len())?;
        Ok(Value::from(text))
    });
    let work = budget.clone();
    env.add_filter("string", move |value: Value| -> Result<Value, Error> {
        if value.kind() == ValueKind::String { Ok(value) } else { printed(&work, &value).map(Value::from) }
    });
    let work = budget.clone();
    env.add_filter("replace", move |text: Value, from: Value, to: Value, times: Option<usize>| {
        replace(&work, &printed(&work, &text)?, &printed(&work, &from)?, &printed(&work, &to)?, times)
    });
    let work = budget.clone();
    env.add_filter("join", move |items: Value, separator: Option<Value>, kwargs: Kwargs| -> Result<Value, Error> {
        let separator = match separator {
            Some(v) => printed(&work, &v)?,
            None => kwargs.get::<Option<String>>("d")?.unwrap_or_default(),
        };
        match kwargs.get::<Option<String>>("attribute")? {
            None => join(&work, &items, &separator),
            Some(name) => {
                let picked: Result<Vec<Value>, Error> = items.try_iter()?.map(|item| item.get_attr(&name)).collect();
                join(&work, &Value::from(picked?), &separator)
            }
        }
    });
    let work = budget.clone();
    env.add_filter("format", move |text: &str, args: Rest<Value>| format(&work, FormatStyle::Printf, text, &args));
    let work = budget.clone();
    env.add_filter(
        "indent",
        move |text: Value, width: Option<Value>, first: Option<bool>, blank: Option<bool>, kwargs: Kwargs| {
            let width = match width {
                Some(v) => Some(v),
                None => kwargs.get::<Option<Value>>("width")?,
            };
            let margin = match &width {
                None => "    ".to_string(),
                Some(v) if v.as_str().is_some() => v.as_str().unwrap_or_default().to_string(),
                Some(v) => " ".repeat(usize::try_from(v.clone())?.min(1 << 12)),
            };
            let first = first.or(kwargs.get("first")?).unwrap_or(false);
            let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            indent(&work, &printed(&work, &text)?, &margin, first, blank)
        },
    );
    let work = budget.clone();
    let escape = move |text: Value| -> Result<Value, Error> {
        let text = printed(&work, &text)?;
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let text = text.replace('\'', "&#39;").replace('"', "&#34;");
        work.take(text.len())?;
        Ok(Value::from(text))
    };
    env.add_filter("escape", escape.clone());
    env.add_filter("e", escape);
}

/// Jinja2's `indent`: every line but the first gets `margin`; empty lines only when `blank`.
fn indent(budget: &Budget, text: &str, margin: &str, first: bool, blank: bool) -> Result<Value, Error> {
    let lines = text.split('\n').count();
    budget.take(text.len().saturating_add(lines.saturating_mul(margin.len())))?;
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let wanted = if i == 0 { first } else { blank || !line.is_empty() };
        if wanted {
            out.push_str(margin);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

/// Methods of Python's str, dict and list.
fn method(budget: &Budget, state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let arg = |n: usize| args.get(n).and_then(Value::as_str);
    if let Some(text) = value.as_str() {
        match (name, arg(0)) {
            ("replace", Some(from)) => {
                let times = args.get(2).and_then(|n| usize::try_from(n.clone()).ok());
                return replace(budget, text, from, arg(1).unwrap_or_default(), times);
            }
            ("join", _) if args.len() == 1 => return join(budget, &args[0], text),
            ("format", _) => return format(budget, FormatStyle::StrFormat, text, args),
            ("removeprefix", Some(prefix)) => return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text))),
            ("removesuffix", Some(suffix)) => return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text))),
            ("partition", Some(by)) => {
                let parts = match text.split_once(by) {
                    Some((left, right)) => [left, by, right],
                    None => [text, "", ""],
                };
                return Ok(Value::from(parts.map(Value::from).to_vec()));
            }
            ("rpartition", Some(by)) => {
                let parts = match text.rsplit_once(by) {
                    Some((left, right)) => [left, by, right],
                    None => ["", "", text],
                };
                return Ok(Value::from(parts.map(Value::from).to_vec()));
            }
            ("rsplit", Some(by)) if !by.is_empty() => {
                let most = args.get(1).and_then(|n| usize::try_from(n.clone()).ok());
                let mut parts: Vec<Value> = match most {
                    Some(n) => text.rsplitn(n.saturating_add(1), by).map(Value::from).collect(),
                    None => text.rsplit(by).map(Value::from).collect(),
                };
                parts.reverse();
                return Ok(Value::from(parts));
            }
            _ => {}
        }
    } else if value.kind() == ValueKind::Map && name == "copy" && args.is_empty() {
        return Ok(value.clone());
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}
