//! Element-wise ops of two operands, and the arithmetic operators.

use crate::dtype::Dtype;
use crate::scalar::{Operand, Scalar, pair, single};
use crate::{Array, ffi};
use mlx_sys as sys;

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => {
        $(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(a: impl Operand, b: impl Operand) -> Array {
                let (a, b) = pair(stringify!($name), &a, &b);
                // SAFETY: valid handles
                ffi::op(stringify!($name), &[&a, &b], |res, s| unsafe { sys::$c(res, a.raw, b.raw, s) })
            }
        )*
        impl Array {
            $(
                $(#[$doc])*
                #[track_caller]
                #[must_use]
                pub fn $name(&self, other: impl Operand) -> Array { $name(self, other) }
            )*
        }
    };
}

binary! {
    /// a + b.
    add = mlx_add;
    /// Angle of the point (b, a).
    arctan2 = mlx_arctan2;
    /// Bit-wise and of integers and bools.
    bitwise_and = mlx_bitwise_and;
    /// Bit-wise or of integers and bools.
    bitwise_or = mlx_bitwise_or;
    /// a / b; integers give float32.
    divide = mlx_divide;
    /// a == b, element-wise.
    equal = mlx_equal;
    /// a > b, element-wise.
    greater = mlx_greater;
    /// a >= b, element-wise.
    greater_equal = mlx_greater_equal;
    /// a << b of integers.
    left_shift = mlx_left_shift;
    /// a < b, element-wise.
    less = mlx_less;
    /// a <= b, element-wise.
    less_equal = mlx_less_equal;
    /// ln(e^a + e^b) without overflow.
    logaddexp = mlx_logaddexp;
    /// The larger; NaN wins.
    maximum = mlx_maximum;
    /// The smaller; NaN wins.
    minimum = mlx_minimum;
    /// a * b.
    multiply = mlx_multiply;
    /// a != b, element-wise.
    not_equal = mlx_not_equal;
    /// a ^ b (`**` in Python).
    power = mlx_power;
    /// a >> b of integers.
    right_shift = mlx_right_shift;
    /// a - b.
    subtract = mlx_subtract;
}

macro_rules! logical {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: impl Operand, b: impl Operand) -> Array {
            // any number is true or false: it need not fit into the other side's dtype
            let (a, b) = (single(stringify!($name), &a), single(stringify!($name), &b));
            // SAFETY: valid handles
            ffi::op(stringify!($name), &[&a, &b], |res, s| unsafe { sys::$c(res, a.raw, b.raw, s) })
        }
        impl Array {
            $(#[$doc])*
            #[track_caller]
            #[must_use]
            pub fn $name(&self, other: impl Operand) -> Array { $name(self, other) }
        }
    )* };
}
logical! {
    /// Logical and.
    logical_and = mlx_logical_and;
    /// Logical or.
    logical_or = mlx_logical_or;
    /// Logical exclusive or.
    logical_xor = mlx_logical_xor;
}

impl Array {
    /// Element-wise `==`.
    #[track_caller]
    #[must_use]
    pub fn eq(&self, other: impl Operand) -> Array {
        equal(self, other)
    }
    /// Element-wise `!=`.
    #[track_caller]
    #[must_use]
    pub fn ne(&self, other: impl Operand) -> Array {
        not_equal(self, other)
    }
    /// Element-wise `<`.
    #[track_caller]
    #[must_use]
    pub fn lt(&self, other: impl Operand) -> Array {
        less(self, other)
    }
    /// Element-wise `<=`.
    #[track_caller]
    #[must_use]
    pub fn le(&self, other: impl Operand) -> Array {
        less_equal(self, other)
    }
    /// Element-wise `>`.
    #[track_caller]
    #[must_use]
    pub fn gt(&self, other: impl Operand) -> Array {
        greater(self, other)
    }
    /// Element-wise `>=`.
    #[track_caller]
    #[must_use]
    pub fn ge(&self, other: impl Operand) -> Array {
        greater_equal(self, other)
    }
    /// `self` to the power `other`.
    #[track_caller]
    #[must_use]
    pub fn pow(&self, other: impl Operand) -> Array {
        power(self, other)
    }
}

/// a ^ b, bit-wise, of integers and bools.
#[track_caller]
pub fn bitwise_xor(a: impl Operand, b: impl Operand) -> Array {
    let (a, b) = pair("bitwise_xor", &a, &b);
    if a.dtype() == Dtype::Bool && b.dtype() == Dtype::Bool {
        // MLX 0.32.2's CPU kernel of bool xor is wrong when an operand's buffer is reused; inequality is the same function
        return not_equal(&*a, &*b);
    }
    // SAFETY: valid handles
    ffi::op("bitwise_xor", &[&a, &b], |res, s| unsafe { sys::mlx_bitwise_xor(res, a.raw, b.raw, s) })
}

/// A divisor that cannot trap: on the CPU, an integer division by zero or of the smallest number by -1 would end the
/// process. Zero counts as one; the other quotient wraps, as in two's complement. Floats are left alone.
#[track_caller]
fn divisor(op: &str, x: &Array, y: &Array, written: crate::scalar::Arg<'_>) -> Array {
    let dtype = x.dtype().promote(y.dtype());
    if dtype.is_inexact() {
        return y.clone();
    }
    let literal = match written {
        crate::scalar::Arg::Scalar(Scalar::Int(0) | Scalar::Bool(false)) => {
            crate::error::refuse(op, "integer division by zero")
        }
        crate::scalar::Arg::Scalar(Scalar::Int(-1)) => false,
        crate::scalar::Arg::Scalar(_) => true,
        crate::scalar::Arg::Array(_) => false,
    };
    if literal {
        return y.clone();
    }
    let mut bad = y.eq(0);
    if dtype.is_signed() && x.dtype() == dtype && y.dtype().is_signed() {
        let smallest = -(1i128 << (dtype.size() * 8 - 1));
        bad = bad.logical_or(y.eq(-1).logical_and(x.eq(smallest)));
    }
    crate::where_(bad, crate::ones_like(y), y)
}

macro_rules! dividing {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: impl Operand, b: impl Operand) -> Array {
            let (x, y) = pair(stringify!($name), &a, &b);
            let y = divisor(stringify!($name), &x, &y, b.arg());
            // SAFETY: valid handles
            ffi::op(stringify!($name), &[&x, &y], |res, s| unsafe { sys::$c(res, x.raw, y.raw, s) })
        }
        impl Array {
            $(#[$doc])*
            #[track_caller]
            #[must_use]
            pub fn $name(&self, other: impl Operand) -> Array { $name(self, other) }
        }
    )* };
}

dividing! {
    /// a // b: truncates for integers, floors for floats. An integer divisor of zero counts as one.
    floor_divide = mlx_floor_divide;
    /// a % b with the sign of b. An integer divisor of zero counts as one.
    remainder = mlx_remainder;
}

/// (a // b, a % b); an integer divisor of zero counts as one.
#[track_caller]
pub fn divmod(a: impl Operand, b: impl Operand) -> (Array, Array) {
    let (x, y) = pair("divmod", &a, &b);
    let y = divisor("divmod", &x, &y, b.arg());
    // SAFETY: valid handles
    let mut v = ffi::op_many("divmod", &[&x, &y], |res, s| unsafe { sys::mlx_divmod(res, x.raw, y.raw, s) });
    match (v.pop(), v.pop()) {
        (Some(r), Some(q)) => (q, r),
        _ => crate::error::refuse("divmod", "two results expected"),
    }
}

/// Bounds each element; `None` leaves that side open.
#[track_caller]
pub fn clip<L: Operand, H: Operand>(a: impl Operand, low: Option<L>, high: Option<H>) -> Array {
    let a = crate::scalar::single("clip", &a);
    let bound = |s: crate::scalar::Arg<'_>| match s {
        crate::scalar::Arg::Array(b) => b.clone(),
        crate::scalar::Arg::Scalar(s) => crate::scalar::weak("clip", s, a.dtype()),
    };
    let low = low.as_ref().map(|l| bound(l.arg()));
    let high = high.as_ref().map(|h| bound(h.arg()));
    let (l, h) = (ffi::nullable(low.as_ref()), ffi::nullable(high.as_ref()));
    // SAFETY: valid or null handles where null is allowed
    ffi::op("clip", &[&a], |res, s| unsafe { sys::mlx_clip(res, a.raw, l, h, s) })
}

macro_rules! close {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: impl Operand, b: impl Operand, rtol: f64, atol: f64, equal_nan: bool) -> Array {
            let (a, b) = pair(stringify!($name), &a, &b);
            // SAFETY: valid handles
            ffi::op(stringify!($name), &[&a, &b], |res, s| unsafe { sys::$c(res, a.raw, b.raw, rtol, atol, equal_nan, s) })
        }
    )* };
}
close! {
    /// |a - b| <= atol + rtol |b|, element-wise (Python's defaults: 1e-5, 1e-8, false).
    isclose = mlx_isclose;
    /// Whether all elements are close.
    allclose = mlx_allclose;
}

/// Whether shapes and all elements are equal.
#[track_caller]
pub fn array_equal(a: impl Operand, b: impl Operand, equal_nan: bool) -> Array {
    let (a, b) = pair("array_equal", &a, &b);
    // SAFETY: valid handles
    ffi::op("array_equal", &[&a, &b], |res, s| unsafe { sys::mlx_array_equal(res, a.raw, b.raw, equal_nan, s) })
}

/// `a /= b` must not turn an integer array into a floating one.
#[track_caller]
fn divide_in_place(a: &Array, b: impl Operand) -> Array {
    if !a.dtype().is_inexact() {
        crate::error::refuse("divide", format!("in-place division of {} {:?}", a.dtype(), a.shape()));
    }
    divide(a, b)
}

// on the left only f32 and i32: with one float and one integer type, `1.0 - &x` needs no annotation
macro_rules! operators {
    ($($trait:ident :: $method:ident = $f:ident, $assign:ident :: $amethod:ident $(= $g:ident)?;)*) => { $(
        impl<B: Operand> std::ops::$trait<B> for &Array {
            type Output = Array;
            #[track_caller]
            fn $method(self, other: B) -> Array { $f(self, other) }
        }
        impl<B: Operand> std::ops::$trait<B> for Array {
            type Output = Array;
            #[track_caller]
            fn $method(self, other: B) -> Array { $f(&self, other) }
        }
        impl<B: Operand> std::ops::$assign<B> for Array {
            #[track_caller]
            fn $amethod(&mut self, other: B) {
                let new = operators!(@assign $f $($g)?)(&*self, other);
                *self = new;
            }
        }
        operators!(@scalar $trait $method $f f32 i32);
    )* };
    (@assign $f:ident) => { $f };
    (@assign $f:ident $g:ident) => { $g };
    (@scalar $trait:ident $method:ident $f:ident $($t:ty)*) => { $(
        impl std::ops::$trait<&Array> for $t {
            type Output = Array;
            #[track_caller]
            fn $method(self, other: &Array) -> Array { $f(self, other) }
        }
        impl std::ops::$trait<Array> for $t {
            type Output = Array;
            #[track_caller]
            fn $method(self, other: Array) -> Array { $f(self, other) }
        }
    )* };
}

operators! {
    Add::add = add, AddAssign::add_assign;
    Sub::sub = subtract, SubAssign::sub_assign;
    Mul::mul = multiply, MulAssign::mul_assign;
    Div::div = divide, DivAssign::div_assign = divide_in_place;
    Rem::rem = remainder, RemAssign::rem_assign;
    BitAnd::bitand = bitwise_and, BitAndAssign::bitand_assign;
    BitOr::bitor = bitwise_or, BitOrAssign::bitor_assign;
    BitXor::bitxor = bitwise_xor, BitXorAssign::bitxor_assign;
    Shl::shl = left_shift, ShlAssign::shl_assign;
    Shr::shr = right_shift, ShrAssign::shr_assign;
}

impl std::ops::Neg for &Array {
    type Output = Array;
    #[track_caller]
    fn neg(self) -> Array {
        self.negative()
    }
}
impl std::ops::Neg for Array {
    type Output = Array;
    #[track_caller]
    fn neg(self) -> Array {
        self.negative()
    }
}
impl std::ops::Not for &Array {
    type Output = Array;
    #[track_caller]
    fn not(self) -> Array {
        self.bitwise_invert()
    }
}
impl std::ops::Not for Array {
    type Output = Array;
    #[track_caller]
    fn not(self) -> Array {
        self.bitwise_invert()
    }
}
