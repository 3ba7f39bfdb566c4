//! The metadata of a GGUF file as the tokenizer reads it.

use super::model::GgufModel;
use super::value::{Array, Value};
use crate::tokenizer::GgufMeta;

impl GgufMeta for GgufModel {
    fn string(&self, key: &str) -> Option<&str> {
        self.metadata().get(key)?.as_str()
    }
    fn u64(&self, key: &str) -> Option<u64> {
        u64::try_from(self.metadata().get(key)?.as_i64()?).ok()
    }
    fn f32(&self, key: &str) -> Option<f32> {
        Some(self.metadata().get(key)?.as_f64()? as f32)
    }
    fn bool(&self, key: &str) -> Option<bool> {
        self.metadata().get(key)?.as_bool()
    }
    fn strings(&self, key: &str) -> Option<&[String]> {
        self.metadata().get(key)?.as_strings()
    }
    fn i32s(&self, key: &str) -> Option<&[i32]> {
        match self.metadata().get(key)? {
            Value::Array(Array::I32(v)) => Some(v),
            _ => None,
        }
    }
    fn f32s(&self, key: &str) -> Option<&[f32]> {
        match self.metadata().get(key)? {
            Value::Array(Array::F32(v)) => Some(v),
            _ => None,
        }
    }
}
