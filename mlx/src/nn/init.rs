//! Initialisers (`mlx.nn.init`): functions of a shape; draws use the thread's key.

use crate::error::refuse;
use crate::shape::Shape;
use crate::{Array, Device, Dtype, linalg, random, where_, with_device};

/// Every element `value`.
#[track_caller]
pub fn constant(shape: impl Into<Shape>, value: f64, dtype: Dtype) -> Array {
    crate::full(shape, value, Some(dtype))
}

/// Normal with mean and standard deviation.
#[track_caller]
pub fn normal(shape: impl Into<Shape>, mean: f64, std: f64, dtype: Dtype) -> Array {
    random::normal(shape, dtype, mean, std, None)
}

/// Uniform in [low, high).
#[track_caller]
pub fn uniform(shape: impl Into<Shape>, low: f64, high: f64, dtype: Dtype) -> Array {
    random::uniform(low, high, shape, dtype, None)
}

/// The identity; the shape must be square.
#[track_caller]
pub fn identity(shape: impl Into<Shape>, dtype: Dtype) -> Array {
    let shape = shape.into();
    match shape[..] {
        [n, m] if n == m => crate::eye(n, None, 0, dtype),
        _ => refuse("init.identity", format!("a square matrix expected, not {:?}", &shape[..])),
    }
}

/// Which side of a weight [out, kernel..., in] the spread of [`he_normal`] goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fan {
    #[default]
    In,
    Out,
}

/// (fan in, fan out) of a weight [out, kernel..., in].
#[track_caller]
fn fans(shape: &[i32]) -> (f64, f64) {
    if shape.len() < 2 {
        refuse("init", format!("Glorot and He initialisation need 2 axes, the shape is {shape:?}"));
    }
    let field: f64 = shape[1..shape.len() - 1].iter().map(|&d| f64::from(d)).product();
    (f64::from(shape[shape.len() - 1]) * field, f64::from(shape[0]) * field)
}

/// Normal with deviation gain * sqrt(2 / (fan in + fan out)).
#[track_caller]
pub fn glorot_normal(shape: impl Into<Shape>, gain: f64, dtype: Dtype) -> Array {
    let shape = shape.into();
    let (i, o) = fans(&shape);
    normal(shape, 0.0, gain * (2.0 / (i + o)).sqrt(), dtype)
}

/// Uniform within gain * sqrt(6 / (fan in + fan out)).
#[track_caller]
pub fn glorot_uniform(shape: impl Into<Shape>, gain: f64, dtype: Dtype) -> Array {
    let shape = shape.into();
    let (i, o) = fans(&shape);
    let limit = gain * (6.0 / (i + o)).sqrt();
    uniform(shape, -limit, limit, dtype)
}

/// Normal with deviation gain / sqrt(fan).
#[track_caller]
pub fn he_normal(shape: impl Into<Shape>, fan: Fan, gain: f64, dtype: Dtype) -> Array {
    let shape = shape.into();
    let (i, o) = fans(&shape);
    let n = if fan == Fan::In { i } else { o };
    normal(shape, 0.0, gain / n.sqrt(), dtype)
}

/// Uniform within gain * sqrt(3 / fan).
#[track_caller]
pub fn he_uniform(shape: impl Into<Shape>, fan: Fan, gain: f64, dtype: Dtype) -> Array {
    let shape = shape.into();
    let (i, o) = fans(&shape);
    let limit = gain * (3.0 / if fan == Fan::In { i } else { o }).sqrt();
    uniform(shape, -limit, limit, dtype)
}

/// Normal, with the same share of each row set to zero.
#[track_caller]
pub fn sparse(shape: impl Into<Shape>, sparsity: f64, mean: f64, std: f64, dtype: Dtype) -> Array {
    let shape = shape.into();
    let [rows, cols] = shape[..] else {
        refuse("init.sparse", format!("two axes expected, not {:?}", &shape[..]));
    };
    let zeros = (sparsity * f64::from(cols)).ceil().clamp(0.0, f64::from(cols)) as i32;
    let order = crate::argsort(&random::uniform(0.0, 1.0, &shape, Dtype::Float32, None), 1);
    let a = normal(&shape, mean, std, dtype);
    // a column is dropped where its place in the random order is among the first
    let place = crate::argsort(&order, 1).reshape([rows, cols]);
    where_(place.lt(zeros), Array::scalar(0, dtype), a)
}

/// Rows or columns orthogonal, times `gain`.
#[track_caller]
pub fn orthogonal(shape: impl Into<Shape>, gain: f64, dtype: Dtype) -> Array {
    let shape = shape.into();
    let [rows, cols] = shape[..] else {
        refuse("init.orthogonal", format!("two axes expected, not {:?}", &shape[..]));
    };
    let n = rows.max(cols);
    let random = random::normal([n, n], Dtype::Float32, 0.0, 1.0, None);
    let (q, r) = with_device(Device::Cpu, || linalg::qr(&random));
    // QR is unique once the diagonal of R is positive
    let q = q * crate::diag(&r, 0).sign();
    (q.slice_axis(0, 0..rows).slice_axis(1, 0..cols) * gain).astype(dtype)
}
