//! Element types of checkpoint files.
use std::fmt;

use serde::{Serialize, Serializer};

/// An element type, named as safetensors names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    /// Power-of-two scales.
    F8E8M0,
    U16,
    I16,
    F16,
    BF16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    C64,
}

const TABLE: [(Dtype, &str, usize); 17] = [
    (Dtype::Bool, "BOOL", 1),
    (Dtype::U8, "U8", 1),
    (Dtype::I8, "I8", 1),
    (Dtype::F8E4M3, "F8_E4M3", 1),
    (Dtype::F8E5M2, "F8_E5M2", 1),
    (Dtype::F8E8M0, "F8_E8M0", 1),
    (Dtype::U16, "U16", 2),
    (Dtype::I16, "I16", 2),
    (Dtype::F16, "F16", 2),
    (Dtype::BF16, "BF16", 2),
    (Dtype::U32, "U32", 4),
    (Dtype::I32, "I32", 4),
    (Dtype::F32, "F32", 4),
    (Dtype::U64, "U64", 8),
    (Dtype::I64, "I64", 8),
    (Dtype::F64, "F64", 8),
    (Dtype::C64, "C64", 8),
];

impl Dtype {
    /// The safetensors name.
    pub fn name(self) -> &'static str {
        TABLE.iter().find(|(d, ..)| *d == self).map_or("", |(_, name, _)| name)
    }
    pub fn from_name(name: &str) -> Option<Dtype> {
        TABLE.iter().find(|(_, n, _)| *n == name).map(|(d, ..)| *d)
    }
    /// Bytes per element.
    pub fn size(self) -> usize {
        TABLE.iter().find(|(d, ..)| *d == self).map_or(0, |(.., size)| *size)
    }
    pub fn is_float(self) -> bool {
        use Dtype::*;
        matches!(self, F8E4M3 | F8E5M2 | F8E8M0 | F16 | BF16 | F32 | F64)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Dtype {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}
