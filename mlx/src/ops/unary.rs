//! Element-wise ops of one array.

use crate::scalar::{Operand, single};
use crate::{Array, ffi};
use mlx_sys as sys;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => {
        $(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(a: impl Operand) -> Array {
                let a = single(stringify!($name), &a);
                // SAFETY: valid handles
                ffi::op(stringify!($name), &[&a], |res, s| unsafe { sys::$c(res, a.raw, s) })
            }
        )*
        impl Array {
            $(
                $(#[$doc])*
                #[track_caller]
                #[must_use]
                pub fn $name(&self) -> Array { $name(self) }
            )*
        }
    };
}

unary! {
    /// Absolute value.
    abs = mlx_abs;
    /// Inverse cosine.
    arccos = mlx_arccos;
    /// Inverse hyperbolic cosine.
    arccosh = mlx_arccosh;
    /// Inverse sine.
    arcsin = mlx_arcsin;
    /// Inverse hyperbolic sine.
    arcsinh = mlx_arcsinh;
    /// Inverse tangent.
    arctan = mlx_arctan;
    /// Inverse hyperbolic tangent.
    arctanh = mlx_arctanh;
    /// Bit-wise complement of integers and bools.
    bitwise_invert = mlx_bitwise_invert;
    /// Smallest whole number not below.
    ceil = mlx_ceil;
    /// Complex conjugate.
    conjugate = mlx_conjugate;
    /// Cosine.
    cos = mlx_cos;
    /// Hyperbolic cosine.
    cosh = mlx_cosh;
    /// Radians to degrees.
    degrees = mlx_degrees;
    /// Error function.
    erf = mlx_erf;
    /// Inverse error function.
    erfinv = mlx_erfinv;
    /// e^x.
    exp = mlx_exp;
    /// e^x - 1, exact near 0.
    expm1 = mlx_expm1;
    /// Largest whole number not above.
    floor = mlx_floor;
    /// Imaginary part.
    imag = mlx_imag;
    /// True where neither infinite nor NaN.
    isfinite = mlx_isfinite;
    /// True where infinite.
    isinf = mlx_isinf;
    /// True where NaN.
    isnan = mlx_isnan;
    /// True where -infinity.
    isneginf = mlx_isneginf;
    /// True where +infinity.
    isposinf = mlx_isposinf;
    /// Natural logarithm.
    log = mlx_log;
    /// Logarithm to base 10.
    log10 = mlx_log10;
    /// ln(1 + x), exact near 0.
    log1p = mlx_log1p;
    /// Logarithm to base 2.
    log2 = mlx_log2;
    /// True where zero.
    logical_not = mlx_logical_not;
    /// -x.
    negative = mlx_negative;
    /// +x.
    positive = mlx_positive;
    /// Degrees to radians.
    radians = mlx_radians;
    /// Real part.
    real = mlx_real;
    /// 1 / x.
    reciprocal = mlx_reciprocal;
    /// 1 / sqrt(x).
    rsqrt = mlx_rsqrt;
    /// 1 / (1 + e^-x).
    sigmoid = mlx_sigmoid;
    /// -1, 0 or 1.
    sign = mlx_sign;
    /// Sine.
    sin = mlx_sin;
    /// Hyperbolic sine.
    sinh = mlx_sinh;
    /// Square root.
    sqrt = mlx_sqrt;
    /// x * x.
    square = mlx_square;
    /// Identity whose gradient is zero.
    stop_gradient = mlx_stop_gradient;
    /// Tangent.
    tan = mlx_tan;
    /// Hyperbolic tangent.
    tanh = mlx_tanh;
    /// Rounds toward zero.
    trunc = mlx_trunc;
}

/// Rounds to `decimals` places, halves to even.
#[track_caller]
pub fn round(a: impl Operand, decimals: i32) -> Array {
    let a = single("round", &a);
    // SAFETY: valid handles
    ffi::op("round", &[&a], |res, s| unsafe { sys::mlx_round(res, a.raw, decimals, s) })
}

impl Array {
    /// Rounds to `decimals` places, halves to even.
    #[track_caller]
    #[must_use]
    pub fn round(&self, decimals: i32) -> Array {
        round(self, decimals)
    }
}

/// Replaces NaN and infinities; `None` takes the largest finite value of the dtype.
#[track_caller]
pub fn nan_to_num(a: impl Operand, nan: f32, posinf: Option<f32>, neginf: Option<f32>) -> Array {
    let a = single("nan_to_num", &a);
    let (p, n) = (ffi::optional_float(posinf), ffi::optional_float(neginf));
    // SAFETY: valid handles
    ffi::op("nan_to_num", &[&a], |res, s| unsafe { sys::mlx_nan_to_num(res, a.raw, nan, p, n, s) })
}
