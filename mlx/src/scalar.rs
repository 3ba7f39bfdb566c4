//! Weakly typed scalars and the operands of binary ops.
//!
//! A Rust number next to an array takes the array's dtype, as a Python number does: `bf16 * 2.0` stays bf16,
//! an integer array times a float becomes float32.

use crate::Array;
use crate::dtype::{Complex32, Dtype};
use crate::error::refuse;
use half::{bf16, f16};
use std::cell::RefCell;

/// A number without a dtype of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Int(i128),
    Float(f64),
    Complex(Complex32),
}

/// One side of a binary op: an array, or a weakly typed number.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    Array(&'a Array),
    Scalar(Scalar),
}

/// What a binary op takes: `Array`, `&Array`, or a number.
pub trait Operand {
    fn arg(&self) -> Arg<'_>;
}

impl Operand for Array {
    fn arg(&self) -> Arg<'_> {
        Arg::Array(self)
    }
}
impl Operand for Scalar {
    fn arg(&self) -> Arg<'_> {
        Arg::Scalar(*self)
    }
}
impl<T: Operand + ?Sized> Operand for &T {
    fn arg(&self) -> Arg<'_> {
        (**self).arg()
    }
}

macro_rules! operands {
    ($($t:ty => $s:expr);* $(;)?) => { $(
        impl From<$t> for Scalar { fn from(v: $t) -> Self { let f: fn($t) -> Scalar = $s; f(v) } }
        impl Operand for $t { fn arg(&self) -> Arg<'_> { Arg::Scalar((*self).into()) } }
    )* };
}
operands! {
    bool => Scalar::Bool;
    i8 => |v| Scalar::Int(v.into());
    i16 => |v| Scalar::Int(v.into());
    i32 => |v| Scalar::Int(v.into());
    i64 => |v| Scalar::Int(v.into());
    i128 => Scalar::Int;
    u8 => |v| Scalar::Int(v.into());
    u16 => |v| Scalar::Int(v.into());
    u32 => |v| Scalar::Int(v.into());
    u64 => |v| Scalar::Int(v.into());
    usize => |v| Scalar::Int(v as i128);
    f32 => |v| Scalar::Float(v.into());
    f64 => Scalar::Float;
    Complex32 => Scalar::Complex;
}

impl Scalar {
    /// The dtype of `mx.array(scalar)`.
    pub fn default_dtype(self) -> Dtype {
        match self {
            Scalar::Bool(_) => Dtype::Bool,
            Scalar::Int(v) if i32::try_from(v).is_ok() => Dtype::Int32,
            Scalar::Int(_) => Dtype::Int64,
            Scalar::Float(_) => Dtype::Float32,
            Scalar::Complex(_) => Dtype::Complex64,
        }
    }

    /// The dtype that this scalar takes next to an array of `dtype`.
    pub fn weak_dtype(self, dtype: Dtype) -> Dtype {
        match self {
            Scalar::Bool(_) => dtype,
            Scalar::Int(_) if dtype == Dtype::Bool => Dtype::Int32,
            Scalar::Int(_) => dtype,
            Scalar::Float(_) if dtype.is_inexact() => dtype,
            Scalar::Float(_) => Dtype::Float32,
            Scalar::Complex(_) => Dtype::Complex64,
        }
    }

    /// A 0-d array of `dtype`; `None` if an integer does not fit. Floats overflow to infinity and truncate to integers.
    pub fn to_array(self, dtype: Dtype) -> Option<Array> {
        CACHE.with(|cache| cache.borrow_mut().get(self, dtype))
    }

    fn bytes(self, dtype: Dtype) -> Option<([u8; 8], usize)> {
        use Dtype::*;
        let mut out = [0; 8];
        macro_rules! put {
            ($v:expr) => {{
                let b = $v.to_le_bytes();
                out[..b.len()].copy_from_slice(&b);
                Some((out, b.len()))
            }};
        }
        macro_rules! int {
            ($t:ty) => {
                put!(match self {
                    Scalar::Bool(v) => v as $t,
                    Scalar::Int(v) => <$t>::try_from(v).ok()?,
                    Scalar::Float(v) => v as $t,
                    Scalar::Complex(v) => v.re as $t,
                })
            };
        }
        let real = match self {
            Scalar::Bool(v) => v as u8 as f64,
            Scalar::Int(v) => v as f64,
            Scalar::Float(v) => v,
            Scalar::Complex(v) => v.re as f64,
        };
        match dtype {
            Bool => put!([(real != 0.0) as u8][0]),
            Uint8 => int!(u8),
            Uint16 => int!(u16),
            Uint32 => int!(u32),
            Uint64 => int!(u64),
            Int8 => int!(i8),
            Int16 => int!(i16),
            Int32 => int!(i32),
            Int64 => int!(i64),
            // through f32, as MLX converts
            Float16 => put!(f16::from_f32(real as f32)),
            Bfloat16 => put!(bf16::from_f32(real as f32)),
            Float32 => put!((real as f32)),
            Float64 => put!(real),
            Complex64 => {
                let c = if let Scalar::Complex(c) = self { c } else { Complex32::new(real as f32, 0.0) };
                out[..4].copy_from_slice(&c.re.to_le_bytes());
                out[4..].copy_from_slice(&c.im.to_le_bytes());
                Some((out, 8))
            }
        }
    }
}

/// Recently used 0-d arrays of this thread: scalars in hot loops cost a clone, not an allocation.
struct Cache {
    slots: Vec<Option<(u64, Dtype, u8, Array)>>,
}

const SLOTS: usize = 128;

thread_local! { static CACHE: RefCell<Cache> = const { RefCell::new(Cache { slots: Vec::new() }) }; }

impl Cache {
    fn get(&mut self, scalar: Scalar, dtype: Dtype) -> Option<Array> {
        let (bytes, len) = scalar.bytes(dtype)?;
        let bits = u64::from_le_bytes(bytes);
        let slot = (bits ^ bits >> 23 ^ bits >> 47).wrapping_mul(31).wrapping_add(dtype as u64) as usize % SLOTS;
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        if let Some((b, d, _, a)) = &self.slots[slot]
            && (*b, *d) == (bits, dtype)
        {
            return Some(a.clone());
        }
        let array = Array::from_raw_bytes(&bytes[..len], &[], dtype);
        self.slots[slot] = Some((bits, dtype, len as u8, array.clone()));
        Some(array)
    }
}

/// An operand made into an array: borrowed where it was one.
pub(crate) enum Held<'a> {
    Borrowed(&'a Array),
    Owned(Array),
}

impl std::ops::Deref for Held<'_> {
    type Target = Array;
    fn deref(&self) -> &Array {
        match self {
            Held::Borrowed(a) => a,
            Held::Owned(a) => a,
        }
    }
}

/// A scalar next to an array of `dtype`, by the weak typing rules.
#[track_caller]
pub(crate) fn weak(op: &str, s: Scalar, dtype: Dtype) -> Array {
    let target = s.weak_dtype(dtype);
    match s.to_array(target) {
        Some(a) => a,
        None => refuse(op, format!("{s:?} does not fit into {target}")),
    }
}

/// One operand alone.
#[track_caller]
pub(crate) fn single<'a>(op: &str, a: &'a impl Operand) -> Held<'a> {
    match a.arg() {
        Arg::Array(a) => Held::Borrowed(a),
        Arg::Scalar(s) => match s.to_array(s.default_dtype()) {
            Some(a) => Held::Owned(a),
            None => refuse(op, format!("{s:?} is out of range")),
        },
    }
}

/// Both operands of a binary op, scalars typed by the other side.
#[track_caller]
pub(crate) fn pair<'a>(op: &str, a: &'a impl Operand, b: &'a impl Operand) -> (Held<'a>, Held<'a>) {
    match (a.arg(), b.arg()) {
        (Arg::Array(a), Arg::Array(b)) => (Held::Borrowed(a), Held::Borrowed(b)),
        (Arg::Array(a), Arg::Scalar(s)) => (Held::Borrowed(a), Held::Owned(weak(op, s, a.dtype()))),
        (Arg::Scalar(s), Arg::Array(b)) => (Held::Owned(weak(op, s, b.dtype())), Held::Borrowed(b)),
        (Arg::Scalar(_), Arg::Scalar(_)) => (single(op, a), single(op, b)),
    }
}
