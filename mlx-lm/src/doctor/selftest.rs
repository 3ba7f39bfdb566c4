//! Small computations on a device, against plain loops in f64.

use mlx::fast::{Mask, Sdpa};
use mlx::{self as mx, Array, Device, Dtype, Quant};
use serde::Serialize;
use std::time::Instant;

/// One computation.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub passed: bool,
    /// Largest difference over the largest reference value.
    pub error: f64,
    pub milliseconds: f64,
    /// What went wrong; empty when nothing did.
    pub detail: String,
}

/// A row-major matrix of f64.
struct Matrix {
    rows: usize,
    cols: usize,
    v: Vec<f64>,
}

impl Matrix {
    /// Distinct values in -1..1 that f16 holds.
    fn sample(rows: usize, cols: usize, seed: usize) -> Matrix {
        let value = |i: usize| (((i * 7919 + seed * 104_729) % 2039) as f64 - 1019.0) / 1024.0;
        Matrix { rows, cols, v: (0..rows * cols).map(value).collect() }
    }
    fn array(&self) -> Array {
        let v: Vec<f32> = self.v.iter().map(|&x| x as f32).collect();
        Array::from_slice(&v, [self.rows as i32, self.cols as i32])
    }
    fn row(&self, i: usize) -> &[f64] {
        &self.v[i * self.cols..(i + 1) * self.cols]
    }
    /// self @ other.T
    fn times_t(&self, other: &Matrix) -> Matrix {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let v = (0..self.rows).flat_map(|i| (0..other.rows).map(move |j| dot(self.row(i), other.row(j))));
        Matrix { rows: self.rows, cols: other.rows, v: v.collect() }
    }
    fn transposed(&self) -> Matrix {
        let v = (0..self.cols).flat_map(|j| (0..self.rows).map(move |i| self.v[i * self.cols + j]));
        Matrix { rows: self.cols, cols: self.rows, v: v.collect() }
    }
    fn map_rows(&self, f: impl Fn(usize, &[f64]) -> Vec<f64>) -> Matrix {
        Matrix { rows: self.rows, cols: self.cols, v: (0..self.rows).flat_map(|i| f(i, self.row(i))).collect() }
    }
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = row.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|x| x / sum).collect()
}

/// Runs all checks on `device`. A device that fails altogether gives failed checks, not an error.
pub fn self_test(device: Device) -> Vec<Check> {
    let (a, b) = (Matrix::sample(8, 64, 1), Matrix::sample(32, 64, 2));
    let big = (Matrix::sample(512, 64, 3), Matrix::sample(512, 64, 4));
    let softmaxed = a.map_rows(|_, r| softmax(r));
    let normed = a.map_rows(|_, r| {
        let rms = (r.iter().map(|x| x * x).sum::<f64>() / r.len() as f64 + 1e-5).sqrt();
        r.iter().map(|x| x / rms).collect()
    });
    let attended = {
        let scores = a.times_t(&a);
        let seen = scores.map_rows(|i, r| {
            let masked = r.iter().enumerate().map(|(j, s)| if j <= i { s / 8.0 } else { f64::NEG_INFINITY });
            softmax(&masked.collect::<Vec<_>>())
        });
        seen.times_t(&b_rows(&b, a.rows).transposed())
    };
    let heads = |m: &Matrix| m.array().reshape([1, 1, m.rows as i32, m.cols as i32]);
    let packed = Packed::new(&b);
    vec![
        check(device, "matmul 8x64x32", 1e-5, &a.times_t(&b), || a.array().matmul(&b.array().transpose(()))),
        check(device, "matmul 512x64x512", 1e-5, &big.0.times_t(&big.1), || {
            big.0.array().matmul(&big.1.array().transpose(()))
        }),
        check(device, "matmul bfloat16", 2e-2, &a.times_t(&b), || {
            let half = |m: &Matrix| m.array().astype(Dtype::Bfloat16);
            half(&a).matmul(&half(&b).transpose(()))
        }),
        check(device, "softmax", 1e-5, &softmaxed, || a.array().softmax(-1)),
        check(device, "rms_norm", 1e-5, &normed, || mx::fast::rms_norm(&a.array(), None, 1e-5)),
        // a GPU multiplies float32 in TF32
        check(device, "attention, causal", if device == Device::Cpu { 1e-5 } else { 2e-3 }, &attended, || {
            let v = heads(&b_rows(&b, a.rows));
            let o = Sdpa { scale: 0.125, mask: Some(&Mask::Causal), sinks: None, force_fused: false };
            mx::fast::scaled_dot_product_attention(&heads(&a), &heads(&a), &v, o)
        }),
        // few rows: on CUDA MLX compiles its product of many float32 rows for half a minute
        check(device, "quantized matmul, 4 bits", 1e-4, &b_rows(&a, 4).times_t(&packed.dense), || {
            packed.product(&b_rows(&a, 4).array())
        }),
        check(device, "quantized matvec, 4 bits", 1e-4, &b_rows(&a, 1).times_t(&packed.dense), || {
            packed.product(&b_rows(&a, 1).array())
        }),
    ]
}

/// The first rows.
fn b_rows(m: &Matrix, rows: usize) -> Matrix {
    Matrix { rows, cols: m.cols, v: m.v[..rows * m.cols].to_vec() }
}

/// 4-bit weights in groups of 32, packed by hand: nibble i of a word is weight i.
struct Packed {
    dense: Matrix,
    words: Vec<u32>,
    scales: Vec<f32>,
    biases: Vec<f32>,
}

impl Packed {
    fn new(like: &Matrix) -> Packed {
        let groups = like.v.len() / 32;
        let scales: Vec<f32> = (0..groups).map(|g| 0.01 + g as f32 / 4096.0).collect();
        let biases: Vec<f32> = (0..groups).map(|g| -0.1 - g as f32 / 2048.0).collect();
        let nibbles: Vec<u32> = (0..like.v.len()).map(|i| (i * 7 + i / 16) as u32 % 16).collect();
        let words = nibbles.chunks(8).map(|c| c.iter().rev().fold(0, |w, n| w << 4 | n)).collect();
        let value = |i: usize| f64::from(scales[i / 32]) * f64::from(nibbles[i]) + f64::from(biases[i / 32]);
        let dense = Matrix { rows: like.rows, cols: like.cols, v: (0..like.v.len()).map(value).collect() };
        Packed { dense, words, scales, biases }
    }
    fn product(&self, x: &Array) -> Array {
        let rows = self.dense.rows as i32;
        let (words, groups) = (self.dense.cols as i32 / 8, self.dense.cols as i32 / 32);
        let w = Array::from_slice(&self.words, [rows, words]);
        let s = Array::from_slice(&self.scales, [rows, groups]);
        let b = Array::from_slice(&self.biases, [rows, groups]);
        mx::quantized_matmul(x, &w, &s, Some(&b), true, Quant::affine(32, 4))
    }
}

fn check(device: Device, name: &'static str, tolerance: f64, want: &Matrix, f: impl Fn() -> Array) -> Check {
    let start = Instant::now();
    let got = mx::catch(|| mx::with_device(device, || f().astype(Dtype::Float32).reshape([-1])))
        .and_then(|y| mx::with_device(device, || y.to_vec::<f32>()));
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let failed = |error, detail| Check { name, passed: false, error, milliseconds, detail };
    let got = match got {
        Ok(v) if v.len() == want.v.len() => v,
        Ok(v) => return failed(f64::INFINITY, format!("{} values, expected {}", v.len(), want.v.len())),
        Err(e) => return failed(f64::INFINITY, e.to_string()),
    };
    let size = want.v.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    // a NaN must not pass
    let error = got
        .iter()
        .zip(&want.v)
        .map(|(g, w)| (f64::from(*g) - w).abs() / size)
        .fold(0.0, |m: f64, e| if e.is_nan() || e > m { e } else { m });
    if error <= tolerance {
        Check { name, passed: true, error, milliseconds, detail: String::new() }
    } else {
        failed(error, format!("off by {error:.1e} of the largest value, allowed {tolerance:.0e}"))
    }
}
