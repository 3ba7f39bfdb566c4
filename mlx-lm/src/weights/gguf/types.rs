//! GGML's tensor types: ids, block sizes.
use std::fmt;

/// A tensor type of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GgmlType(usize);

/// name, id, elements per block, bytes per block
const TYPES: &[(&str, u32, usize, usize)] = &[
    ("F32", 0, 1, 4),
    ("F16", 1, 1, 2),
    ("Q4_0", 2, 32, 18),
    ("Q4_1", 3, 32, 20),
    ("Q5_0", 6, 32, 22),
    ("Q5_1", 7, 32, 24),
    ("Q8_0", 8, 32, 34),
    ("Q8_1", 9, 32, 40),
    ("Q2_K", 10, 256, 84),
    ("Q3_K", 11, 256, 110),
    ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176),
    ("Q6_K", 14, 256, 210),
    ("Q8_K", 15, 256, 292),
    ("IQ2_XXS", 16, 256, 66),
    ("IQ2_XS", 17, 256, 74),
    ("IQ3_XXS", 18, 256, 98),
    ("IQ1_S", 19, 256, 50),
    ("IQ4_NL", 20, 32, 18),
    ("IQ3_S", 21, 256, 110),
    ("IQ2_S", 22, 256, 82),
    ("IQ4_XS", 23, 256, 136),
    ("I8", 24, 1, 1),
    ("I16", 25, 1, 2),
    ("I32", 26, 1, 4),
    ("I64", 27, 1, 8),
    ("F64", 28, 1, 8),
    ("IQ1_M", 29, 256, 56),
    ("BF16", 30, 1, 2),
    ("TQ1_0", 34, 256, 54),
    ("TQ2_0", 35, 256, 66),
    ("MXFP4", 39, 32, 17),
];

macro_rules! named { ($($name:ident = $i:literal),*) => { $(
    pub const $name: GgmlType = GgmlType($i);
)* } }

#[allow(missing_docs)]
impl GgmlType {
    named!(
        F32 = 0,
        F16 = 1,
        Q4_0 = 2,
        Q4_1 = 3,
        Q5_0 = 4,
        Q5_1 = 5,
        Q8_0 = 6,
        Q2_K = 8,
        Q3_K = 9,
        Q4_K = 10,
        Q5_K = 11
    );
    named!(Q6_K = 12, IQ4_NL = 18, IQ4_XS = 21, BF16 = 28, MXFP4 = 31);

    /// The type of a file's id.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        TYPES.iter().position(|t| t.1 == id).map(GgmlType)
    }
    /// All types whose layout is known (not all can be dequantised).
    pub fn all() -> impl Iterator<Item = GgmlType> {
        (0..TYPES.len()).map(GgmlType)
    }
    pub fn name(self) -> &'static str {
        TYPES[self.0].0
    }
    pub fn id(self) -> u32 {
        TYPES[self.0].1
    }
    /// Elements per block.
    pub fn block(self) -> usize {
        TYPES[self.0].2
    }
    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        TYPES[self.0].3
    }
    /// Bytes of a row of `cols` elements (a multiple of the block).
    pub fn row_bytes(self, cols: usize) -> usize {
        cols / self.block() * self.block_bytes()
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}
