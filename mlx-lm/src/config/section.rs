//! Typed access to one JSON object of a config. `null` counts as absent; every error names the full key.
use serde_json::{Map, Value};

use super::json::{float, kind};
use crate::{Error, Result};

/// One object of a config: the whole, or a sub-object such as `vision_config`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    prefix: String,
    map: Map<String, Value>,
}

/// A default: a value, or a closure that computes it.
pub trait Fallback<T> {
    fn value(self) -> T;
}
macro_rules! fallback { ($($t:ty),*) => { $(
    impl Fallback<$t> for $t {
        fn value(self) -> $t {
            self
        }
    }
    impl<F: FnOnce() -> $t> Fallback<$t> for F {
        fn value(self) -> $t {
            self()
        }
    }
)* } }
fallback!(usize, f32, f64, i64, bool);

impl Section {
    /// `prefix` stands before keys in messages ("" or "text_config.").
    pub fn new(prefix: impl Into<String>, map: Map<String, Value>) -> Self {
        Section { prefix: prefix.into(), map }
    }

    /// All entries.
    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }
    pub(super) fn map_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.map
    }
    /// The value of a key; `None` when absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }
    /// Present and not null.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
    /// The full name of a key, as messages spell it.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
    /// An error about a key of this object.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        Error::config(self.name(key), message)
    }

    fn opt<T>(&self, key: &str, want: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        match read(v) {
            Some(t) => Ok(Some(t)),
            None => Err(self.error(key, format!("expected {want}, found {}", show(v)))),
        }
    }
    fn need<T>(&self, key: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| self.error(key, "missing"))
    }

    /// A count or size.
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.need(key, self.opt_usize(key)?)
    }
    pub fn usize_or(&self, key: &str, default: impl Fallback<usize>) -> Result<usize> {
        Ok(self.opt_usize(key)?.unwrap_or_else(|| default.value()))
    }
    pub fn opt_usize(&self, key: &str) -> Result<Option<usize>> {
        self.opt(key, "a non-negative integer", size)
    }

    /// A signed integer.
    pub fn i64(&self, key: &str) -> Result<i64> {
        self.need(key, self.opt_i64(key)?)
    }
    pub fn i64_or(&self, key: &str, default: impl Fallback<i64>) -> Result<i64> {
        Ok(self.opt_i64(key)?.unwrap_or_else(|| default.value()))
    }
    pub fn opt_i64(&self, key: &str) -> Result<Option<i64>> {
        self.opt(key, "an integer", integer)
    }

    /// A number; `{"__float__": "Infinity"}` is infinite.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.need(key, self.opt_f64(key)?)
    }
    pub fn f64_or(&self, key: &str, default: impl Fallback<f64>) -> Result<f64> {
        Ok(self.opt_f64(key)?.unwrap_or_else(|| default.value()))
    }
    pub fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        self.opt(key, "a number", float)
    }

    /// As [`Section::f64`], rounded to f32.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.f64(key).map(|v| v as f32)
    }
    pub fn f32_or(&self, key: &str, default: impl Fallback<f32>) -> Result<f32> {
        Ok(self.opt_f32(key)?.unwrap_or_else(|| default.value()))
    }
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        Ok(self.opt_f64(key)?.map(|v| v as f32))
    }

    /// A bool, false when absent.
    pub fn flag(&self, key: &str) -> Result<bool> {
        self.flag_or(key, false)
    }
    pub fn flag_or(&self, key: &str, default: impl Fallback<bool>) -> Result<bool> {
        Ok(self.opt_flag(key)?.unwrap_or_else(|| default.value()))
    }
    pub fn opt_flag(&self, key: &str) -> Result<Option<bool>> {
        self.opt(key, "true or false", |v| match v {
            Value::Bool(b) => Some(*b),
            Value::Number(n) => n.as_i64().filter(|n| (0..2).contains(n)).map(|n| n == 1),
            _ => None,
        })
    }

    pub fn str(&self, key: &str) -> Result<&str> {
        self.need(key, self.opt_str(key)?)
    }
    pub fn str_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.opt_str(key)?.unwrap_or(default))
    }
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => Err(self.error(key, format!("expected a string, found {}", show(v)))),
        }
    }

    /// A list of sizes.
    pub fn usizes(&self, key: &str) -> Result<Vec<usize>> {
        self.need(key, self.opt_usizes(key)?)
    }
    pub fn opt_usizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.list(key, "a non-negative integer", size)
    }
    /// A list of integers.
    pub fn opt_i64s(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.list(key, "an integer", integer)
    }
    /// A list of numbers.
    pub fn f64s(&self, key: &str) -> Result<Vec<f64>> {
        self.need(key, self.opt_f64s(key)?)
    }
    pub fn opt_f64s(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.list(key, "a number", float)
    }
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        Ok(self.f64s(key)?.into_iter().map(|v| v as f32).collect())
    }
    /// A list of bools; 0 and 1 count.
    pub fn opt_flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.list(key, "true or false", |v| v.as_bool().or(v.as_i64().filter(|n| (0..2).contains(n)).map(|n| n == 1)))
    }
    /// A list of strings, as `layer_types`.
    pub fn strings(&self, key: &str) -> Result<Vec<String>> {
        self.need(key, self.opt_strings(key)?)
    }
    pub fn opt_strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.list(key, "a string", |v| v.as_str().map(str::to_owned))
    }
    fn list<T>(&self, key: &str, want: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let Some(items) = v.as_array() else {
            return Err(self.error(key, format!("expected a list, found {}", show(v))));
        };
        let one = |(i, v): (usize, &Value)| {
            read(v).ok_or_else(|| self.error(&format!("{key}[{i}]"), format!("expected {want}, found {}", show(v))))
        };
        items.iter().enumerate().map(one).collect::<Result<_>>().map(Some)
    }

    /// A sub-object, an error when absent.
    pub fn sub(&self, key: &str) -> Result<Section> {
        self.need(key, self.opt_sub(key)?)
    }
    pub fn opt_sub(&self, key: &str) -> Result<Option<Section>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Section::new(format!("{}{key}.", self.prefix), map.clone()))),
            Some(v) => Err(self.error(key, format!("expected an object, found {}", show(v)))),
        }
    }
    /// A list of objects; one by itself counts as a list of one.
    pub fn opt_objects(&self, key: &str) -> Result<Vec<Section>> {
        if !self.get(key).is_some_and(Value::is_array) {
            return Ok(self.opt_sub(key)?.into_iter().collect());
        }
        let maps = self.list(key, "an object", |v| v.as_object().cloned())?.unwrap_or_default();
        Ok(maps.into_iter().enumerate().map(|(i, m)| Section::new(format!("{}{key}[{i}].", self.prefix), m)).collect())
    }
}

fn size(v: &Value) -> Option<usize> {
    usize::try_from(integer(v)?).ok()
}

/// Whole floats (4096.0) count: converters write them.
fn integer(v: &Value) -> Option<i64> {
    let n = v.as_number()?;
    n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64))
}

/// A short rendering of a wrong value.
fn show(v: &Value) -> String {
    let mut text = v.to_string();
    if text.len() > 60 {
        let cut = (0..=57).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    format!("{} {text}", kind(v))
}
