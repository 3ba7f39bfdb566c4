//! Fourier transforms and linear algebra.

use crate::conformance::args::{Args, R, float, wrong};
use crate::conformance::data::Value;
use mlx::fft::{self, Fftn, Norm};
use mlx::linalg::{self, Ord, Triangle};
use mlx::{Array, Axes};

pub fn call(name: &str, _: bool, a: &Args<'_>) -> Option<R<Value>> {
    if name == "matrix_norm" {
        return Some(norm(a));
    }
    if let Some(name) = name.strip_prefix("linalg.") {
        return algebra(name, a);
    }
    Some(match name.strip_prefix("fft.")? {
        "fft" => one(a, fft::fft),
        "ifft" => one(a, fft::ifft),
        "rfft" => one(a, fft::rfft),
        "irfft" => one(a, fft::irfft),
        "fft2" => many(a, fft::fft2),
        "ifft2" => many(a, fft::ifft2),
        "rfft2" => many(a, fft::rfft2),
        "irfft2" => many(a, fft::irfft2),
        "fftn" => many(a, fft::fftn),
        "ifftn" => many(a, fft::ifftn),
        "rfftn" => many(a, fft::rfftn),
        "irfftn" => many(a, fft::irfftn),
        "fftshift" => shift(a, fft::fftshift),
        "ifftshift" => shift(a, fft::ifftshift),
        "fftfreq" => frequencies(a, fft::fftfreq),
        "rfftfreq" => frequencies(a, fft::rfftfreq),
        _ => return None,
    })
}

fn norm_of(a: &Args<'_>) -> R<Norm> {
    let name = a.opt_str(3, "norm")?.unwrap_or("backward");
    Norm::from_name(name).map_or_else(|| wrong(name), Ok)
}

fn one(a: &Args<'_>, f: fn(&Array, Option<i32>, i32, Norm) -> Array) -> R<Value> {
    Ok(f(&a.array(0, "a")?, a.opt_int(1, "n")?, a.int_or(2, "axis", -1)?, norm_of(a)?).into())
}

fn many(a: &Args<'_>, f: fn(&Array, Fftn<'_>) -> Array) -> R<Value> {
    let (s, axes) = (a.opt_ints(1, "s")?, a.opt_ints(2, "axes")?);
    // `axes=None` asks for the default of fftn, also of fft2
    let all: Vec<i32> = match (a.given(2, "axes"), &s) {
        (Some(Value::Null), None) => (-(a.array(0, "a")?.ndim() as i32)..0).collect(),
        _ => Vec::new(),
    };
    let axes = axes.or((!all.is_empty()).then_some(all));
    Ok(f(&a.array(0, "a")?, Fftn { s: s.as_deref(), axes: axes.as_deref(), norm: norm_of(a)? }).into())
}

fn shift(a: &Args<'_>, f: fn(&Array, Axes) -> Array) -> R<Value> {
    Ok(f(&a.array(0, "a")?, a.axes(1, "axes")?).into())
}

fn frequencies(a: &Args<'_>, f: fn(i32, f64) -> Array) -> R<Value> {
    Ok(f(a.int(0, "n")?, a.float_or(1, "d", 1.0)?).into())
}

fn triangle(a: &Args<'_>) -> R<Triangle> {
    match a.opt_str(1, "UPLO")?.unwrap_or("L") {
        "L" => Ok(Triangle::Lower),
        "U" => Ok(Triangle::Upper),
        other => wrong(other),
    }
}

fn algebra(name: &str, a: &Args<'_>) -> Option<R<Value>> {
    let of = |f: fn(&Array) -> Value| a.array(0, "a").map(|x| f(&x));
    Some(match name {
        "cholesky" => upper(a, linalg::cholesky),
        "cholesky_inv" => upper(a, linalg::cholesky_inv),
        "tri_inv" => upper(a, linalg::tri_inv),
        "cross" => cross(a),
        "det" => of(|x| linalg::det(x).into()),
        "eig" => of(|x| linalg::eig(x).into()),
        "eigvals" => of(|x| linalg::eigvals(x).into()),
        "eigh" => symmetric(a, |x, t| linalg::eigh(x, t).into()),
        "eigvalsh" => symmetric(a, |x, t| linalg::eigvalsh(x, t).into()),
        "inv" => of(|x| linalg::inv(x).into()),
        "lu" => of(|x| linalg::lu(x).into()),
        "lu_factor" => of(|x| linalg::lu_factor(x).into()),
        "norm" => norm(a),
        "pinv" => of(|x| linalg::pinv(x).into()),
        "qr" => of(|x| linalg::qr(x).into()),
        "slogdet" => of(|x| linalg::slogdet(x).into()),
        "solve" => solve(a),
        "solve_triangular" => solve_triangular(a),
        "svd" => svd(a),
        _ => return None,
    })
}

fn upper(a: &Args<'_>, f: fn(&Array, bool) -> Array) -> R<Value> {
    Ok(f(&a.array(0, "a")?, a.bool_or(1, "upper", false)?).into())
}

fn symmetric(a: &Args<'_>, f: fn(&Array, Triangle) -> Value) -> R<Value> {
    Ok(f(&a.array(0, "a")?, triangle(a)?))
}

fn cross(a: &Args<'_>) -> R<Value> {
    Ok(linalg::cross(&a.array(0, "a")?, &a.array(1, "b")?, a.int_or(2, "axis", -1)?).into())
}

fn norm(a: &Args<'_>) -> R<Value> {
    let ord = match a.some(1, "ord") {
        None => Ord::Default,
        Some(Value::Str(s)) if s == "fro" => Ord::Fro,
        Some(Value::Str(s)) if s == "nuc" => Ord::Nuc,
        Some(v) => Ord::P(float(v)?),
    };
    Ok(linalg::norm(&a.array(0, "a")?, ord, a.axes(2, "axis")?, a.bool_or(3, "keepdims", false)?).into())
}

fn solve(a: &Args<'_>) -> R<Value> {
    Ok(linalg::solve(&a.array(0, "a")?, &a.array(1, "b")?).into())
}

fn solve_triangular(a: &Args<'_>) -> R<Value> {
    Ok(linalg::solve_triangular(&a.array(0, "a")?, &a.array(1, "b")?, a.bool_or(9, "upper", false)?).into())
}

fn svd(a: &Args<'_>) -> R<Value> {
    let x = a.array(0, "a")?;
    Ok(if a.bool_or(1, "compute_uv", true)? { linalg::svd(&x).into() } else { linalg::svdvals(&x).into() })
}
