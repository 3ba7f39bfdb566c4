//! Element types: the `Dtype` of an array and the Rust types that carry them.

use half::{bf16, f16};
use mlx_sys as sys;
pub use num_complex::Complex32;

/// The element type of an [`Array`](crate::Array) (`mlx.core.Dtype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Float16,
    Float32,
    /// CPU only.
    Float64,
    Bfloat16,
    Complex64,
}

use Dtype::*;

impl Dtype {
    pub const ALL: [Dtype; 14] = [
        Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Float16, Float32, Float64, Bfloat16, Complex64,
    ];

    pub(crate) fn raw(self) -> sys::mlx_dtype {
        match self {
            Bool => sys::MLX_BOOL,
            Uint8 => sys::MLX_UINT8,
            Uint16 => sys::MLX_UINT16,
            Uint32 => sys::MLX_UINT32,
            Uint64 => sys::MLX_UINT64,
            Int8 => sys::MLX_INT8,
            Int16 => sys::MLX_INT16,
            Int32 => sys::MLX_INT32,
            Int64 => sys::MLX_INT64,
            Float16 => sys::MLX_FLOAT16,
            Float32 => sys::MLX_FLOAT32,
            Float64 => sys::MLX_FLOAT64,
            Bfloat16 => sys::MLX_BFLOAT16,
            Complex64 => sys::MLX_COMPLEX64,
        }
    }

    pub(crate) fn from_raw(raw: sys::mlx_dtype) -> Dtype {
        // MLX only ever hands out these fourteen values
        Self::ALL.into_iter().find(|d| d.raw() == raw).unwrap_or(Float32)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Bool | Uint8 | Int8 => 1,
            Uint16 | Int16 | Float16 | Bfloat16 => 2,
            Uint32 | Int32 | Float32 => 4,
            Uint64 | Int64 | Float64 | Complex64 => 8,
        }
    }

    /// Python's name: `"float32"`.
    pub fn name(self) -> &'static str {
        match self {
            Bool => "bool",
            Uint8 => "uint8",
            Uint16 => "uint16",
            Uint32 => "uint32",
            Uint64 => "uint64",
            Int8 => "int8",
            Int16 => "int16",
            Int32 => "int32",
            Int64 => "int64",
            Float16 => "float16",
            Float32 => "float32",
            Float64 => "float64",
            Bfloat16 => "bfloat16",
            Complex64 => "complex64",
        }
    }

    /// The dtype with Python's `name`.
    pub fn from_name(name: &str) -> Option<Dtype> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Float16 | Float32 | Float64 | Bfloat16)
    }
    /// Floating or complex.
    pub fn is_inexact(self) -> bool {
        self.is_float() || self == Complex64
    }
    /// Signed or unsigned integer; not bool.
    pub fn is_integer(self) -> bool {
        self.is_signed() || self.is_unsigned()
    }
    pub fn is_signed(self) -> bool {
        matches!(self, Int8 | Int16 | Int32 | Int64)
    }
    pub fn is_unsigned(self) -> bool {
        matches!(self, Uint8 | Uint16 | Uint32 | Uint64)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that an array element can be read as or made from.
pub trait Element: sealed::Sealed + Copy + Default + 'static {
    const DTYPE: Dtype;
    /// Reads one element from its little-endian bytes; a bool byte is normalised.
    #[doc(hidden)]
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! element {
    ($($t:ty = $d:ident),*) => { $(
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: Dtype = $d;
            fn from_bytes(bytes: &[u8]) -> Self {
                bytemuck::pod_read_unaligned(bytes)
            }
        }
    )* };
}
element!(u8 = Uint8, u16 = Uint16, u32 = Uint32, u64 = Uint64, i8 = Int8, i16 = Int16, i32 = Int32, i64 = Int64);
element!(f16 = Float16, bf16 = Bfloat16, f32 = Float32, f64 = Float64);

impl sealed::Sealed for bool {}
impl Element for bool {
    const DTYPE: Dtype = Bool;
    fn from_bytes(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
}

impl sealed::Sealed for Complex32 {}
impl Element for Complex32 {
    const DTYPE: Dtype = Complex64;
    fn from_bytes(bytes: &[u8]) -> Self {
        Complex32::new(f32::from_bytes(&bytes[..4]), f32::from_bytes(&bytes[4..]))
    }
}
