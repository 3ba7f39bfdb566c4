//! Metadata values.

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    U64(u64),
    I64(i64),
    F64(f64),
    Array(Array),
}

/// A metadata array; all elements have one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    /// Integers of any width (and bools) that all fit.
    I32(Vec<i32>),
    /// Integers of which one does not fit 32 bits.
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Str(Vec<String>),
    Nested(Vec<Array>),
}

impl Array {
    /// Integers, in 32 bits if they fit.
    pub(super) fn ints(all: Vec<i64>) -> Array {
        let narrow = all.iter().map(|&v| i32::try_from(v)).collect::<Result<Vec<i32>, _>>();
        narrow.map_or(Array::I64(all), Array::I32)
    }
    /// Integers widened; `None` for other arrays.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        match self {
            Array::I32(v) => Some(v.iter().map(|&v| v.into()).collect()),
            Array::I64(v) => Some(v.clone()),
            _ => None,
        }
    }
}

impl Value {
    /// Any integer (or bool) as `i64`.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::Bool(v) => v.into(),
            Value::I64(v) => v,
            Value::U64(v) => i64::try_from(v).ok()?,
            _ => return None,
        })
    }
    pub fn as_usize(&self) -> Option<usize> {
        usize::try_from(self.as_i64()?).ok()
    }
    /// Any number as `f64`; an `F32` by its shortest decimal form.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(shortest(v)),
            Value::F64(v) => Some(v),
            _ => self.as_i64().map(|v| v as f64),
        }
    }
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(a) => Some(a),
            _ => None,
        }
    }
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Value::Array(Array::Str(s)) => Some(s),
            _ => None,
        }
    }
    pub fn as_i32s(&self) -> Option<&[i32]> {
        match self {
            Value::Array(Array::I32(v)) => Some(v),
            _ => None,
        }
    }
    pub fn as_f32s(&self) -> Option<&[f32]> {
        match self {
            Value::Array(Array::F32(v)) => Some(v),
            _ => None,
        }
    }
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        self.as_array()?.to_i64s()
    }
}

/// An f32 by its shortest decimal form, as config files spell it (1e-5, not 9.99999975e-6).
pub(super) fn shortest(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(v.into())
}
