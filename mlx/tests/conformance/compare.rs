//! Whether a result agrees with the record: shape, dtype, and values exactly or within the tolerance of the dtype.

use super::data::Value;
use mlx::{Array, Complex32, Dtype};

/// How close floats have to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    Exact,
    /// By dtype; `Loose` for sums of many terms.
    Normal,
    Loose,
}

impl Tolerance {
    pub fn of(self, dtype: Dtype) -> f64 {
        let loose = self == Tolerance::Loose;
        match dtype {
            _ if self == Tolerance::Exact => 0.0,
            Dtype::Float64 => 1e-10,
            Dtype::Float16 => [2e-3, 1e-2][loose as usize],
            Dtype::Bfloat16 => [1.6e-2, 2e-2][loose as usize],
            Dtype::Float32 | Dtype::Complex64 => [1e-5, 1e-4][loose as usize],
            _ => 0.0,
        }
    }
}

/// `None` if they agree, else what differs.
pub fn differ(want: &Value, got: &Value, t: Tolerance) -> Option<String> {
    if let (Some(w), Some(g)) = (want.items(), got.items()) {
        if w.len() != g.len() {
            return Some(format!("{} results, not {}", g.len(), w.len()));
        }
        return w.iter().zip(g).enumerate().find_map(|(i, (w, g))| Some(format!("[{i}] {}", differ(w, g, t)?)));
    }
    let close = |w: f64, g: f64| number(w, g, t.of(Dtype::Float32));
    let same = match (want, got) {
        (Value::Array(w), Value::Array(g)) => return arrays(w, g, t),
        (Value::Null, Value::Null) => true,
        (Value::Bool(w), Value::Bool(g)) => w == g,
        (Value::Int(w), Value::Int(g)) => w == g,
        (Value::Float(w), Value::Float(g)) => close(*w, *g),
        (Value::Complex(w), Value::Complex(g)) => close(w.re as f64, g.re as f64) && close(w.im as f64, g.im as f64),
        (Value::Str(w), Value::Str(g)) => w == g,
        (Value::Dtype(w), Value::Dtype(g)) => w == g,
        (Value::Dict(w), Value::Dict(g)) => {
            let mut names: Vec<&str> = w.iter().chain(g).map(|(k, _)| k.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            let find = |d: &[(String, Value)], n: &str| d.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone());
            return names.into_iter().find_map(|n| match (find(w, n), find(g, n)) {
                (Some(w), Some(g)) => Some(format!("{n}: {}", differ(&w, &g, t)?)),
                (None, _) => Some(format!("{n} is too many")),
                (_, None) => Some(format!("{n} is missing")),
            });
        }
        _ => false,
    };
    (!same).then(|| format!("{got:?}, not {want:?}"))
}

/// Equal, both NaN, or within an absolute and a relative `tolerance`.
pub fn number(want: f64, got: f64, tolerance: f64) -> bool {
    want == got
        || want.is_nan() && got.is_nan()
        || want.is_finite() && (want - got).abs() <= tolerance + tolerance * want.abs()
}

/// Compares two arrays.
pub fn arrays(want: &Array, got: &Array, t: Tolerance) -> Option<String> {
    if (want.shape(), want.dtype()) != (got.shape(), got.dtype()) {
        return Some(format!("{:?} {}, not {:?} {}", got.shape(), got.dtype(), want.shape(), want.dtype()));
    }
    let text = |i: usize, w: String, g: String| Some(format!("element {i} is {g}, not {w}"));
    let tolerance = t.of(want.dtype());
    if want.dtype() == Dtype::Complex64 {
        let (w, g) = (complex(want), complex(got));
        let close = |w: Complex32, g: Complex32| {
            // a transform's small parts carry the error of its large ones
            number(w.re as f64, g.re as f64, tolerance.max(tolerance * w.norm() as f64))
                && number(w.im as f64, g.im as f64, tolerance.max(tolerance * w.norm() as f64))
        };
        let i = w.iter().zip(&g).position(|(w, g)| !close(*w, *g))?;
        return text(i, w[i].to_string(), g[i].to_string());
    }
    if want.dtype().is_float() {
        let (w, g) = (floats(want), floats(got));
        let i = w.iter().zip(&g).position(|(w, g)| !number(*w, *g, tolerance))?;
        return text(i, w[i].to_string(), g[i].to_string());
    }
    let (w, g) = (want.to_bytes().expect("recorded"), got.to_bytes().expect("evaluated"));
    let i = w.iter().zip(&g).position(|(w, g)| w != g)? / want.itemsize();
    let at = |a: &Array| a.reshape(-1).i(i).to_string();
    text(i, at(want), at(got))
}

/// Elements of a floating array.
pub fn floats(a: &Array) -> Vec<f64> {
    match a.dtype() {
        Dtype::Float64 => a.to_vec::<f64>().expect("evaluated"),
        d if d.is_float() => a.to_vec::<f32>().expect("evaluated").into_iter().map(f64::from).collect(),
        _ => mlx::with_device(mlx::Device::Cpu, || a.astype(Dtype::Float64)).to_vec::<f64>().expect("evaluated"),
    }
}

pub fn complex(a: &Array) -> Vec<Complex32> {
    a.to_vec::<Complex32>().expect("evaluated")
}
