//! Arguments of a recorded call, by position or keyword, as Python binds them.

use super::data::Value;
use mlx::{Array, Axes, Dtype, Shape};
use std::collections::BTreeMap;

/// Why a call failed.
#[derive(Debug)]
pub enum Fail {
    /// The runner has no Rust call for this name.
    Unknown,
    /// A value of a kind that the Rust signature cannot take: a compile error in Rust.
    Type(String),
    /// The call refused its operands.
    Call(mlx::Error),
    /// The result could not be computed.
    Eval(mlx::Error),
}

impl From<mlx::Error> for Fail {
    fn from(e: mlx::Error) -> Self {
        match e {
            e @ mlx::Error::Eval { .. } => Fail::Eval(e),
            e => Fail::Call(e),
        }
    }
}

impl std::fmt::Display for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fail::Unknown => f.write_str("no Rust call for this name"),
            Fail::Type(what) => write!(f, "not a value of the Rust signature: {what}"),
            Fail::Call(e) => write!(f, "at the call: {e}"),
            Fail::Eval(e) => write!(f, "in evaluation: {e}"),
        }
    }
}

pub type R<T> = Result<T, Fail>;

/// A type error.
pub fn wrong<T>(what: impl std::fmt::Debug) -> R<T> {
    Err(Fail::Type(format!("{what:?}")))
}

/// Arguments of one call.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    pub pos: &'a [Value],
    pub kw: &'a BTreeMap<String, Value>,
}

impl<'a> Args<'a> {
    /// The argument, `None` if it was not given.
    pub fn given(&self, i: usize, name: &str) -> Option<&'a Value> {
        self.pos.get(i).or_else(|| self.kw.get(name))
    }
    /// The argument, `None` if it was not given or is Python's None.
    pub fn some(&self, i: usize, name: &str) -> Option<&'a Value> {
        self.given(i, name).filter(|v| !matches!(v, Value::Null))
    }
    pub fn operand(&self, i: usize, name: &str) -> R<&'a Value> {
        match self.given(i, name) {
            Some(v) if v.is_operand() => Ok(v),
            other => wrong(other),
        }
    }
    /// An array, or a number as `mx.array(number)`.
    pub fn array(&self, i: usize, name: &str) -> R<Array> {
        mlx::try_catch(|| Ok::<_, mlx::Error>(self.operand(i, name).map(mlx::asarray)))?
    }
    pub fn opt_array(&self, i: usize, name: &str) -> R<Option<Array>> {
        match self.some(i, name) {
            None => Ok(None),
            Some(_) => self.array(i, name).map(Some),
        }
    }
    pub fn opt_int(&self, i: usize, name: &str) -> R<Option<i32>> {
        self.some(i, name).map(int).transpose()
    }
    pub fn int(&self, i: usize, name: &str) -> R<i32> {
        self.given(i, name).map_or_else(|| wrong(name), int)
    }
    pub fn int_or(&self, i: usize, name: &str, default: i32) -> R<i32> {
        self.some(i, name).map_or(Ok(default), int)
    }
    /// An axis whose default is not None: absent gives `default`, None the flat array.
    pub fn axis_or(&self, i: usize, name: &str, default: i32) -> R<Option<i32>> {
        match self.given(i, name) {
            None => Ok(Some(default)),
            Some(Value::Null) => Ok(None),
            Some(v) => int(v).map(Some),
        }
    }
    pub fn float_or(&self, i: usize, name: &str, default: f64) -> R<f64> {
        Ok(self.opt_float(i, name)?.unwrap_or(default))
    }
    pub fn opt_float(&self, i: usize, name: &str) -> R<Option<f64>> {
        self.some(i, name).map(float).transpose()
    }
    pub fn bool_or(&self, i: usize, name: &str, default: bool) -> R<bool> {
        match self.some(i, name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            other => wrong(other),
        }
    }
    pub fn opt_str(&self, i: usize, name: &str) -> R<Option<&'a str>> {
        match self.some(i, name) {
            None => Ok(None),
            Some(Value::Str(s)) => Ok(Some(s)),
            other => wrong(other),
        }
    }
    pub fn dtype(&self, i: usize, name: &str) -> R<Option<Dtype>> {
        match self.some(i, name) {
            None => Ok(None),
            Some(Value::Dtype(d)) => Ok(Some(*d)),
            other => wrong(other),
        }
    }
    pub fn axes(&self, i: usize, name: &str) -> R<Axes> {
        Ok(match self.some(i, name) {
            None => Axes::All,
            Some(v) => ints(v)?.into(),
        })
    }
    /// One number or several.
    pub fn ints(&self, i: usize, name: &str) -> R<Vec<i32>> {
        self.given(i, name).map_or_else(|| wrong(name), ints)
    }
    pub fn opt_ints(&self, i: usize, name: &str) -> R<Option<Vec<i32>>> {
        self.some(i, name).map(ints).transpose()
    }
    pub fn shape(&self, i: usize, name: &str) -> R<Shape> {
        Ok(self.ints(i, name)?.into())
    }
    pub fn arrays(&self, i: usize, name: &str) -> R<Vec<Array>> {
        match self.given(i, name).and_then(Value::items) {
            Some(v) => v.iter().map(as_array).collect(),
            None => wrong(name),
        }
    }
    /// All positional arguments as arrays.
    pub fn all_arrays(&self) -> R<Vec<Array>> {
        self.pos.iter().map(as_array).collect()
    }
}

pub fn as_array(v: &Value) -> R<Array> {
    match v {
        Value::Array(a) => Ok(a.clone()),
        v if v.is_operand() => Ok(mlx::catch(|| mlx::asarray(v))?),
        other => wrong(other),
    }
}

pub fn int(v: &Value) -> R<i32> {
    match v {
        Value::Int(i) => i32::try_from(*i).or_else(|_| wrong(v)),
        Value::Bool(b) => Ok(*b as i32),
        other => wrong(other),
    }
}

pub fn float(v: &Value) -> R<f64> {
    match v {
        Value::Int(i) => Ok(*i as f64),
        Value::Float(f) => Ok(*f),
        Value::Bool(b) => Ok(*b as u8 as f64),
        other => wrong(other),
    }
}

pub fn ints(v: &Value) -> R<Vec<i32>> {
    match v.items() {
        Some(v) => v.iter().map(int).collect(),
        None => Ok(vec![int(v)?]),
    }
}
