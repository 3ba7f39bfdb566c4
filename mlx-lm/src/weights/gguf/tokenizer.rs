//! Metadata as [`Tokenizer::from_gguf`](crate::tokenizer::Tokenizer::from_gguf) asks for it.
use super::parse::Gguf;
use super::value::{Array, Value};
use crate::tokenizer::GgufMeta;

impl GgufMeta for Gguf {
    fn string(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    fn u64(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Bool(_) => None,
            value => u64::try_from(value.as_i64()?).ok(),
        }
    }

    fn f32(&self, key: &str) -> Option<f32> {
        match self.get(key)? {
            Value::F32(v) => Some(*v),
            Value::F64(v) => Some(*v as f32),
            _ => None,
        }
    }

    fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    fn strings(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            Value::Array(Array::Str(v)) => Some(v),
            _ => None,
        }
    }

    fn i32s(&self, key: &str) -> Option<&[i32]> {
        match self.get(key)? {
            Value::Array(Array::I32(v)) => Some(v),
            _ => None,
        }
    }

    fn f32s(&self, key: &str) -> Option<&[f32]> {
        match self.get(key)? {
            Value::Array(Array::F32(v)) => Some(v),
            _ => None,
        }
    }
}
