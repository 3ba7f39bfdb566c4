//! Second names that Python gives to ops, functions for what Rust code writes as methods, and constants.

use crate::shape::{Axes, Shape};
use crate::{Array, Dtype};

pub use super::binary::{
    arctan2 as atan2, left_shift as bitwise_left_shift, power as pow, right_shift as bitwise_right_shift,
};
pub use super::creation::{zeros as empty, zeros_like as empty_like};
pub use super::reduce::{cumprod as cumulative_prod, cumsum as cumulative_sum};
pub use super::shaping::concatenate as concat;
pub use super::unary::{
    arccos as acos, arccosh as acosh, arcsin as asin, arcsinh as asinh, arctan as atan, arctanh as atanh,
    conjugate as conj,
};
pub use crate::linalg::norm as matrix_norm;

/// The circle's ratio.
pub const PI: f64 = std::f64::consts::PI;
/// Euler's number.
pub const E: f64 = std::f64::consts::E;
/// The Euler-Mascheroni constant.
pub const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
/// Infinity.
pub const INF: f64 = f64::INFINITY;
/// Not a number.
pub const NAN: f64 = f64::NAN;

macro_rules! functions {
    ($($name:ident($($arg:ident: $t:ty),*);)*) => { $(
        #[doc = concat!("See [`Array::", stringify!($name), "`].")]
        #[track_caller]
        pub fn $name(a: &Array $(, $arg: $t)*) -> Array { a.$name($($arg),*) }
    )* };
}
functions! {
    astype(dtype: Dtype);
    expand_dims(axes: impl Into<Axes>);
    flatten(start: i32, end: i32);
    moveaxis(source: i32, destination: i32);
    reshape(shape: impl Into<Shape>);
    squeeze(axes: impl Into<Axes>);
    swapaxes(a1: i32, a2: i32);
    transpose(axes: impl Into<Axes>);
    unflatten(axis: i32, shape: impl Into<Shape>);
    view(dtype: Dtype);
}

/// Python's second name of `transpose`.
#[track_caller]
pub fn permute_dims(a: &Array, axes: impl Into<Axes>) -> Array {
    a.transpose(axes)
}

/// Python's name for reversing all axes; to exchange the last two, use `swapaxes(-1, -2)`.
#[track_caller]
pub fn matrix_transpose(a: &Array) -> Array {
    a.transpose(())
}

/// See [`Array::split`].
#[track_caller]
pub fn split(a: &Array, parts: i32, axis: i32) -> Vec<Array> {
    a.split(parts, axis)
}

/// See [`Array::split_at`].
#[track_caller]
pub fn split_at(a: &Array, indices: &[i32], axis: i32) -> Vec<Array> {
    a.split_at(indices, axis)
}
