//! Dtype arithmetic: which dtype a result has, which kinds there are, and the limits of each.

use crate::dtype::Dtype;
use crate::error::refuse;

impl Dtype {
    /// The dtype of a result of operands `self` and `other`.
    pub fn promote(self, other: Dtype) -> Dtype {
        use Dtype::*;
        let (a, b) = (self, other);
        match (a, b) {
            _ if a == b => a,
            (Complex64, _) | (_, Complex64) => Complex64,
            (Bool, d) | (d, Bool) => d,
            // two different half precisions have float32 in common
            _ if a.is_float() && b.is_float() => match (a, b) {
                (Float64, _) | (_, Float64) => Float64,
                _ => Float32,
            },
            _ if a.is_float() => a,
            _ if b.is_float() => b,
            _ if a.is_signed() == b.is_signed() => {
                if a.size() >= b.size() {
                    a
                } else {
                    b
                }
            }
            _ => {
                let (signed, unsigned) = if a.is_signed() { (a, b) } else { (b, a) };
                match unsigned {
                    _ if unsigned.size() < signed.size() => signed,
                    Uint8 => Int16,
                    Uint16 => Int32,
                    Uint32 => Int64,
                    _ => Float32,
                }
            }
        }
    }
}

/// The dtype of a result of operands of these dtypes (`mx.result_type`).
#[track_caller]
pub fn result_type(dtypes: &[Dtype]) -> Dtype {
    match dtypes.iter().copied().reduce(Dtype::promote) {
        Some(d) => d,
        None => refuse("result_type", "at least one dtype expected"),
    }
}

/// Whether promoting `from` with `to` gives `to` (`mx.can_cast`).
pub fn can_cast(from: Dtype, to: Dtype) -> bool {
    from.promote(to) == to
}

/// Kinds of dtypes (`mx.DtypeCategory`): each contains those that [`issubdtype`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DtypeCategory {
    Complexfloating,
    Floating,
    Inexact,
    Signedinteger,
    Unsignedinteger,
    Integer,
    Number,
    Generic,
}

impl DtypeCategory {
    pub const ALL: [DtypeCategory; 8] = {
        use DtypeCategory::*;
        [Complexfloating, Floating, Inexact, Signedinteger, Unsignedinteger, Integer, Number, Generic]
    };

    /// Python's name: `"floating"`.
    pub fn name(self) -> &'static str {
        use DtypeCategory::*;
        match self {
            Complexfloating => "complexfloating",
            Floating => "floating",
            Inexact => "inexact",
            Signedinteger => "signedinteger",
            Unsignedinteger => "unsignedinteger",
            Integer => "integer",
            Number => "number",
            Generic => "generic",
        }
    }

    /// The category with Python's `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    fn parent(self) -> Self {
        use DtypeCategory::*;
        match self {
            Complexfloating | Floating => Inexact,
            Signedinteger | Unsignedinteger => Integer,
            Inexact | Integer => Number,
            Number | Generic => Generic,
        }
    }

    fn within(self, other: Self) -> bool {
        self == other || (self != DtypeCategory::Generic && self.parent().within(other))
    }
}

/// A dtype or a category, as [`issubdtype`] takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DtypeOrCategory {
    Dtype(Dtype),
    Category(DtypeCategory),
}

impl From<Dtype> for DtypeOrCategory {
    fn from(d: Dtype) -> Self {
        DtypeOrCategory::Dtype(d)
    }
}
impl From<DtypeCategory> for DtypeOrCategory {
    fn from(c: DtypeCategory) -> Self {
        DtypeOrCategory::Category(c)
    }
}

/// Whether `a` belongs to `b` (`mx.issubdtype`); a dtype contains itself only.
pub fn issubdtype(a: impl Into<DtypeOrCategory>, b: impl Into<DtypeOrCategory>) -> bool {
    use DtypeCategory::*;
    use DtypeOrCategory as D;
    match (a.into(), b.into()) {
        (D::Dtype(a), D::Dtype(b)) => a == b,
        (D::Category(a), D::Category(b)) => a.within(b),
        (D::Category(_), D::Dtype(_)) => false,
        (D::Dtype(a), D::Category(b)) => match a {
            Dtype::Complex64 => Complexfloating.within(b),
            a if a.is_float() => Floating.within(b),
            a if a.is_signed() => Signedinteger.within(b),
            a if a.is_unsigned() => Unsignedinteger.within(b),
            _ => Generic.within(b),
        },
    }
}

/// What [`isdtype`] asks for: a dtype, or a kind of the array API standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DtypeKind {
    Dtype(Dtype),
    Bool,
    SignedInteger,
    UnsignedInteger,
    Integral,
    RealFloating,
    ComplexFloating,
    Numeric,
}

impl From<Dtype> for DtypeKind {
    fn from(d: Dtype) -> Self {
        DtypeKind::Dtype(d)
    }
}

impl DtypeKind {
    /// The kind with the standard's `name`: `"real floating"`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "bool" => DtypeKind::Bool,
            "signed integer" => DtypeKind::SignedInteger,
            "unsigned integer" => DtypeKind::UnsignedInteger,
            "integral" => DtypeKind::Integral,
            "real floating" => DtypeKind::RealFloating,
            "complex floating" => DtypeKind::ComplexFloating,
            "numeric" => DtypeKind::Numeric,
            _ => return None,
        })
    }
}

/// Whether `dtype` is of any of the `kinds` (`mx.isdtype`).
pub fn isdtype(dtype: Dtype, kinds: &[DtypeKind]) -> bool {
    kinds.iter().any(|kind| match kind {
        DtypeKind::Dtype(d) => dtype == *d,
        DtypeKind::Bool => dtype == Dtype::Bool,
        DtypeKind::SignedInteger => dtype.is_signed(),
        DtypeKind::UnsignedInteger => dtype.is_unsigned(),
        DtypeKind::Integral => dtype.is_integer(),
        DtypeKind::RealFloating => dtype.is_float(),
        DtypeKind::ComplexFloating => dtype == Dtype::Complex64,
        DtypeKind::Numeric => dtype != Dtype::Bool,
    })
}

/// Limits of a floating dtype (`mx.finfo`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finfo {
    pub dtype: Dtype,
    pub bits: u32,
    /// Distance from 1 to the next number.
    pub eps: f64,
    pub min: f64,
    pub max: f64,
    /// The smallest positive number with full precision.
    pub smallest_normal: f64,
}

/// Limits of a floating dtype, for complex64 of its parts.
///
/// # Errors
/// If `dtype` is not floating.
pub fn finfo(dtype: Dtype) -> crate::Result<Finfo> {
    let dtype = if dtype == Dtype::Complex64 { Dtype::Float32 } else { dtype };
    let (eps, max, smallest_normal) = match dtype {
        Dtype::Float16 => (2f64.powi(-10), 65504.0, 2f64.powi(-14)),
        Dtype::Bfloat16 => (2f64.powi(-7), half::bf16::MAX.to_f64(), f32::MIN_POSITIVE as f64),
        Dtype::Float32 => (f32::EPSILON as f64, f32::MAX as f64, f32::MIN_POSITIVE as f64),
        Dtype::Float64 => (f64::EPSILON, f64::MAX, f64::MIN_POSITIVE),
        other => return Err(crate::Error::op("finfo", format!("{other} is not a floating dtype"))),
    };
    Ok(Finfo { dtype, bits: dtype.size() as u32 * 8, eps, min: -max, max, smallest_normal })
}

/// Limits of an integer dtype (`mx.iinfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Iinfo {
    pub dtype: Dtype,
    pub bits: u32,
    pub min: i128,
    pub max: i128,
}

/// Limits of an integer dtype.
///
/// # Errors
/// If `dtype` is not an integer dtype.
pub fn iinfo(dtype: Dtype) -> crate::Result<Iinfo> {
    if !dtype.is_integer() {
        return Err(crate::Error::op("iinfo", format!("{dtype} is not an integer dtype")));
    }
    let bits = dtype.size() as u32 * 8;
    let (min, max) =
        if dtype.is_signed() { (-(1i128 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    Ok(Iinfo { dtype, bits, min, max })
}
