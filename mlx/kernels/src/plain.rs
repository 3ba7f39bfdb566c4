//! What each kernel computes, as loops over f64: the reference that tests compare against. Slow, and shares nothing with the
//! kernels but the argument types.

use crate::attention::{Attention, Mask};
use crate::data::{Floats, View4};
use crate::linear_scan::{LinearScan, Rule};
use crate::quant::{Matrix, Mode, Quantized};
use crate::rope::{Freqs, Rope};
use crate::selective_scan::SelectiveScan;
use crate::short_conv::ShortConv;

fn at(x: &Floats<'_>, i: usize) -> f64 {
    x.get(i).map_or(f64::NAN, f64::from)
}

fn at4(v: &View4<'_>, i: [usize; 4]) -> f64 {
    at(&v.data, i.iter().zip(v.strides).map(|(a, b)| a * b).sum())
}

/// Code of element (row, col): `bits` bits from bit `col * bits` of the row's stream.
fn code(q: &Quantized<'_>, row: usize, col: usize) -> u32 {
    let bits = q.mode.bits();
    let start = row * q.cols * bits + col * bits;
    (0..bits).map(|i| u32::from(q.words[(start + i) / 8] >> ((start + i) % 8) & 1) << i).sum()
}

/// e2m1 and e4m3 by their definition: sign, exponent, mantissa.
fn small_float(code: u32, exponent_bits: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let mantissa = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let exponent = (code >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
    let size =
        if exponent == 0 { mantissa * 2f64.powi(1 - bias) } else { (1.0 + mantissa) * 2f64.powi(exponent - bias) };
    if code >> (mantissa_bits + exponent_bits) & 1 == 1 { -size } else { size }
}

/// Element (row, col) of a matrix.
pub fn element(w: &Matrix<'_>, row: usize, col: usize) -> f64 {
    match w {
        Matrix::Dense { data, cols, .. } => at(data, row * cols + col),
        Matrix::Quantized(q) => {
            let c = code(q, row, col);
            let (scale, bias) = q.group_params(row * (q.cols / q.mode.group()) + col / q.mode.group());
            let v = match q.mode {
                Mode::Affine { .. } => f64::from(c),
                Mode::Mxfp4 | Mode::Nvfp4 => small_float(c, 2, 1, 1),
                Mode::Mxfp8 => small_float(c, 4, 3, 7),
            };
            v * f64::from(scale) + f64::from(bias)
        }
    }
}

/// `x[M, K] @ w[N, K]^T + bias[N]`.
pub fn matmul(x: &Floats<'_>, m: usize, w: &Matrix<'_>, bias: Option<Floats<'_>>) -> Vec<f64> {
    let rows: Vec<u32> = (0..m as u32).collect();
    gather_matmul(x, w, w.rows(), &rows, &vec![0; m], bias)
}

/// Row i: `x[x_rows[i]] @ w[experts[i]]^T + bias[experts[i]]`.
pub fn gather_matmul(
    x: &Floats<'_>,
    w: &Matrix<'_>,
    n: usize,
    x_rows: &[u32],
    experts: &[u32],
    bias: Option<Floats<'_>>,
) -> Vec<f64> {
    let k = w.cols();
    let mut out = Vec::new();
    for (r, e) in x_rows.iter().zip(experts) {
        for j in 0..n {
            let row = *e as usize * n + j;
            let dot: f64 = (0..k).map(|i| at(x, *r as usize * k + i) * element(w, row, i)).sum();
            out.push(dot + bias.map_or(0.0, |b| at(&b, row)));
        }
    }
    out
}

/// `x[M, K] @ w[K, N]`.
pub fn matmul_straight(x: &Floats<'_>, m: usize, w: &Matrix<'_>) -> Vec<f64> {
    let (k, n) = (w.rows(), w.cols());
    (0..m * n).map(|i| (0..k).map(|j| at(x, i / n * k + j) * element(w, j, i % n)).sum()).collect()
}

/// See [`crate::attention()`]; result `[B, Hq, L, Dv]`.
pub fn attention(a: &Attention<'_>) -> Vec<f64> {
    let [b, hq, l, d] = a.q.dims;
    let (hk, s, dv) = (a.k.dims[1], a.k.dims[2], a.v.dims[3]);
    let mut out = Vec::new();
    for (b, h, i) in (0..b).flat_map(|b| (0..hq).flat_map(move |h| (0..l).map(move |i| (b, h, i)))) {
        let kh = h / (hq / hk);
        let last = (s + i) as i64 - l as i64; // last key a causal query sees
        let mut scores: Vec<f64> = Vec::new();
        for j in 0..s {
            let dot: f64 = (0..d).map(|c| at4(&a.q, [b, h, i, c]) * at4(&a.k, [b, kh, j, c])).sum();
            let place = |strides: [usize; 4]| [b, h, i, j].iter().zip(strides).map(|(a, b)| a * b).sum::<usize>();
            let mut score = dot * f64::from(a.scale);
            if let Some(cap) = a.softcap.map(f64::from) {
                score = cap * (score / cap).tanh();
            }
            match a.mask {
                Mask::None => {}
                Mask::Bool { data, strides } if data[place(strides)] == 0 => score = f64::NEG_INFINITY,
                Mask::Bool { .. } => {}
                Mask::Add { data, strides } => score += at(&data, place(strides)),
            }
            let j = j as i64;
            let seen = a.starts.is_none_or(|s| j >= s[b] as i64)
                && (!(a.causal || a.window.is_some()) || j <= last)
                && a.window.is_none_or(|w| j > last - w as i64);
            scores.push(if seen { score } else { f64::NEG_INFINITY });
        }
        let sink = a.sinks.map_or(f64::NEG_INFINITY, |s| at(&s, h));
        let top = scores.iter().copied().fold(sink, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| if top.is_finite() { (s - top).exp() } else { 0.0 }).collect();
        let sum = weights.iter().sum::<f64>() + if sink.is_finite() { (sink - top).exp() } else { 0.0 };
        for c in 0..dv {
            let v: f64 =
                (0..s).map(|j| if weights[j] == 0.0 { 0.0 } else { weights[j] * at4(&a.v, [b, kh, j, c]) }).sum();
            out.push(if sum > 0.0 { v / sum } else { 0.0 });
        }
    }
    out
}

/// See [`crate::rms_norm`].
pub fn rms_norm(x: &Floats<'_>, dim: usize, weight: Option<Floats<'_>>, eps: f32) -> Vec<f64> {
    let mean = |r: usize| (0..dim).map(|i| at(x, r * dim + i).powi(2)).sum::<f64>() / dim as f64;
    (0..x.len())
        .map(|i| at(x, i) / (mean(i / dim) + f64::from(eps)).sqrt() * weight.map_or(1.0, |w| at(&w, i % dim)))
        .collect()
}

/// See [`crate::layer_norm`].
pub fn layer_norm(
    x: &Floats<'_>,
    dim: usize,
    weight: Option<Floats<'_>>,
    bias: Option<Floats<'_>>,
    eps: f32,
) -> Vec<f64> {
    let mut out = Vec::new();
    for r in 0..x.len() / dim {
        let row: Vec<f64> = (0..dim).map(|i| at(x, r * dim + i)).collect();
        let mean = row.iter().sum::<f64>() / dim as f64;
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
        out.extend(row.iter().enumerate().map(|(i, v)| {
            (v - mean) / (var + f64::from(eps)).sqrt() * weight.map_or(1.0, |w| at(&w, i))
                + bias.map_or(0.0, |b| at(&b, i))
        }));
    }
    out
}

/// See [`crate::softmax`].
pub fn softmax(x: &Floats<'_>, dim: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for r in 0..x.len() / dim {
        let row: Vec<f64> = (0..dim).map(|i| at(x, r * dim + i)).collect();
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|v| (v - top).exp()).sum();
        out.extend(row.iter().map(|v| (v - top).exp() / sum));
    }
    out
}

/// See [`crate::rope()`]; result `[B, H, L, D]`.
pub fn rope(x: &View4<'_>, r: &Rope<'_>) -> Vec<f64> {
    let [b, h, l, d] = x.dims;
    let half = r.dims / 2;
    let mut out = Vec::new();
    for (bi, hi, li) in (0..b).flat_map(|b| (0..h).flat_map(move |h| (0..l).map(move |l| (b, h, l)))) {
        let offset = r.offsets[if r.offsets.len() == 1 { 0 } else { bi }];
        for i in 0..d {
            let own = at4(x, [bi, hi, li, i]);
            if i >= r.dims {
                out.push(own);
                continue;
            }
            // partner and pair of element i, and whether it is the second of the pair
            let (pair, second) = if r.traditional { (i / 2, i % 2 == 1) } else { (i % half, i >= half) };
            let step = if r.traditional { 1 } else { half };
            let other = at4(x, [bi, hi, li, if second { i - step } else { i + step }]);
            let frequency = match r.freqs {
                Freqs::Base(base) => f64::from(base).powf(-2.0 * pair as f64 / r.dims as f64),
                Freqs::Periods(p) => 1.0 / at(&p, pair),
            };
            let angle = (f64::from(offset) + li as f64) * f64::from(r.scale) * frequency;
            let (sin, cos) = angle.sin_cos();
            out.push(if second { own * cos + other * sin } else { own * cos - other * sin });
        }
    }
    out
}

/// `silu(gate) * up`.
pub fn swiglu(gate: &Floats<'_>, up: &Floats<'_>) -> Vec<f64> {
    (0..gate.len()).map(|i| at(gate, i) / (1.0 + (-at(gate, i)).exp()) * at(up, i)).collect()
}

/// `gelu_tanh(gate) * up`.
pub fn geglu(gate: &Floats<'_>, up: &Floats<'_>) -> Vec<f64> {
    let gelu = |g: f64| g / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3))).tanh());
    (0..gate.len()).map(|i| gelu(at(gate, i)) * at(up, i)).collect()
}

/// See [`crate::linear_scan`] with `heads` heads: outputs `[B, H, L, V]` and the last state.
pub fn linear_scan(a: &LinearScan<'_>, heads: usize) -> (Vec<f64>, Vec<f64>) {
    let ([b, _, l, dk], dv) = (a.k.dims, a.v.dims[3]);
    let (mut out, mut states) = (Vec::new(), Vec::new());
    for (b, h) in (0..b).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        let first = (b * heads + h) * dv * dk;
        let mut s: Vec<f64> = (0..dv * dk).map(|i| a.state.map_or(0.0, |s| at(&s, first + i))).collect();
        for t in 0..l {
            let x = |x: &View4<'_>, i: usize| at4(x, [b, h * x.dims[1] / heads, t, i % x.dims[3]]);
            for v in 0..dv {
                let row = &mut s[v * dk..(v + 1) * dk];
                let before = row.to_vec();
                let slots = matches!(a.rule, Rule::Slots);
                (0..dk).for_each(|k| row[k] *= x(&a.g, if slots { v } else { k }).exp());
                let dot = |row: &[f64], y: &View4<'_>| (0..dk).map(|k| row[k] * x(y, k)).sum::<f64>();
                let (write, taken) = match &a.rule {
                    Rule::Add { beta } => (beta.map_or(1.0, |beta| x(&beta, 0)) * x(&a.v, v), None),
                    Rule::Delta { beta } => (x(beta, 0) * (x(&a.v, v) - dot(row, &a.k)), None),
                    Rule::Remove { at, under } => (x(&a.v, v), Some((dot(&before, at), under))),
                    Rule::Slots => (x(&a.v, v), None),
                };
                (0..dk).for_each(|k| row[k] += write * x(&a.k, k) - taken.map_or(0.0, |(n, e)| n * x(e, k)));
                out.push(dot(row, &a.q));
            }
        }
        states.extend(s);
    }
    (out, states)
}

/// See [`crate::selective_scan`]: outputs `[B, L, D]` and the last state.
pub fn selective_scan(s: &SelectiveScan<'_>) -> (Vec<f64>, Vec<f64>) {
    let [b, l, d, n] = s.dims;
    let (mut out, mut states) = (vec![0.0; b * l * d], Vec::new());
    for (b, d0) in (0..b).flat_map(|b| (0..d).map(move |c| (b, c))) {
        let mut state: Vec<f64> = (0..n).map(|i| s.state.map_or(0.0, |s| at(&s, (b * d + d0) * n + i))).collect();
        for t in 0..l {
            let token = b * l + t;
            let (u, dt) = (at(&s.u, token * d + d0), at(&s.dt, token * d + d0));
            let mut y = at(&s.skip, d0) * u;
            for (i, x) in state.iter_mut().enumerate() {
                *x = (dt * at(&s.a, d0 * n + i)).exp() * *x + dt * u * at(&s.b, token * n + i);
                y += *x * at(&s.c, token * n + i);
            }
            out[token * d + d0] = y;
        }
        states.extend(state);
    }
    (out, states)
}

/// See [`crate::short_conv`]: outputs `[B, L, C]` and the next tail.
pub fn short_conv(a: &ShortConv<'_>) -> (Vec<f64>, Vec<f64>) {
    let [b, _, l, c] = a.x.dims;
    let taps = a.weight.len() / c;
    // time counted from the first input
    let input = |b: usize, t: i64, i: usize| match usize::try_from(t) {
        Ok(t) => at4(&a.x, [b, 0, t, i]),
        Err(_) => {
            let t = (t + taps as i64 - 1) as usize;
            a.tail.map_or(0.0, |tail| at(&tail, (b * (taps - 1) + t) * c + i))
        }
    };
    let back = taps as i64 - 1;
    let (mut out, mut next) = (Vec::new(), Vec::new());
    for b in 0..b {
        for (t, i) in (0..l as i64).flat_map(|t| (0..c).map(move |i| (t, i))) {
            let sum = (0..taps).map(|j| at(&a.weight, i * taps + j) * input(b, t - back + j as i64, i)).sum::<f64>();
            let y = sum + a.bias.map_or(0.0, |x| at(&x, i));
            out.push(if a.silu { y / (1.0 + (-y).exp()) } else { y });
        }
        let last = (l as i64 - back..l as i64).flat_map(|t| (0..c).map(move |i| (t, i)));
        next.extend(last.map(|(t, i)| input(b, t, i)));
    }
    (out, next)
}
