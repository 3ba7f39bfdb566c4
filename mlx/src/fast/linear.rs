//! Linear layers with what surrounds them: a norm before, a gated activation or a residual sum after.
//!
//! One function for every backend and weight form. On CUDA few rows of x take one kernel that reads each weight once
//! (`cuda/gemv.cuh`) and many rows of a quantised weight are multiplied in dense form, since MLX compiles its own
//! kernel for minutes and runs it at a fraction of the card's speed; everything else is composed of plain ops.

use super::cuda::gemv::{self, Experts};
use super::{Gate, cuda, rms_norm};
use crate::error::refuse;
use crate::{Array, Dtype, Gather, Quant, dequantize, gather_mm, gather_qmm, quantized_matmul};

/// A weight [..., N, K] as checkpoints hold it: dense, or packed with scales (and offsets in affine mode).
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub weight: &'a Array,
    pub scales: Option<&'a Array>,
    pub biases: Option<&'a Array>,
    pub quant: Option<Quant>,
    /// Added to the product: [N].
    pub bias: Option<&'a Array>,
}

impl<'a> Matrix<'a> {
    pub fn dense(weight: &'a Array) -> Self {
        Matrix { weight, scales: None, biases: None, quant: None, bias: None }
    }
    pub fn quantized(weight: &'a Array, scales: &'a Array, biases: Option<&'a Array>, quant: Quant) -> Self {
        Matrix { weight, scales: Some(scales), biases, quant: Some(quant), bias: None }
    }
    pub fn with_bias(self, bias: Option<&'a Array>) -> Self {
        Matrix { bias, ..self }
    }
    /// K: the width of x.
    pub fn inputs(&self) -> i32 {
        let width = self.weight.dim(-1);
        self.quant.map_or(width, |q| q.unpacked(width))
    }
    /// N: the width of the product.
    pub fn outputs(&self) -> i32 {
        self.weight.dim(-2)
    }
    fn is_traced(&self) -> bool {
        [Some(self.weight), self.scales, self.biases, self.bias].into_iter().flatten().any(cuda::is_traced)
    }
    /// Whether the parts belong together; MLX checks the plain form, the kernels rely on this.
    fn is_whole(&self) -> bool {
        let Some(q) = self.quant else { return self.scales.is_none() && self.biases.is_none() };
        let (w, n) = (self.weight, self.weight.ndim());
        let groups = |a: &Array| a.ndim() == n && a.shape()[..n - 1] == w.shape()[..n - 1];
        q.is_valid()
            && w.dtype() == Dtype::Uint32
            && self.scales.is_some_and(|s| groups(s) && s.dim(-1) * q.group_size == self.inputs())
            && self.biases.is_none_or(|b| Some(b.shape()) == self.scales.map(Array::shape))
    }
}

/// What happens around a product; [`Default`] is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fused<'a> {
    /// x becomes rms_norm(x) with this weight [K] and epsilon.
    pub norm: Option<(&'a Array, f32)>,
    /// The product [..., 2N] is a gate and an up half: act(gate) * up [..., N].
    pub gate: Option<Gate>,
    /// Added last: [..., N].
    pub residual: Option<&'a Array>,
}

/// Rows of x from which a quantised product on CUDA is cheaper in dense form than by the few-row kernel.
const MANY_ROWS: i32 = 33;

/// x [..., K] times W.T (W [N, K]; [2N, K] with a gate), with what [`Fused`] asks for around it: [..., N].
///
/// ```
/// use mlx::{self as mx, Array, fast};
/// let (x, w) = (mx::ones([1, 32], mx::Dtype::Float32), mx::ones([8, 32], mx::Dtype::Float32));
/// let y = fast::linear(&x, fast::Matrix::dense(&w), fast::Fused { residual: Some(&Array::from(1.0f32)), ..Default::default() });
/// assert_eq!(y.max(()).item::<f32>()?, 33.0);
/// # Ok::<(), mx::Error>(())
/// ```
#[track_caller]
pub fn linear(x: &Array, w: Matrix<'_>, f: Fused<'_>) -> Array {
    match on_gpu(x, &w, &f) {
        Some(y) => y,
        None => plain(x, w, f),
    }
}

/// [`linear`] from plain ops.
#[track_caller]
pub fn linear_plain(x: &Array, w: Matrix<'_>, f: Fused<'_>) -> Array {
    plain(x, w, f)
}

fn on_gpu(x: &Array, w: &Matrix<'_>, f: &Fused<'_>) -> Option<Array> {
    let gpu = cuda::current_gpu()?;
    if x.ndim() == 0 || w.weight.ndim() != 2 || !cuda::is_half(x.dtype()) {
        return None;
    }
    let (k, n, rows) = (x.dim(-1), w.outputs(), x.size() / x.dim(-1).max(1) as usize);
    let fused = f.norm.is_some() || f.gate.is_some() || f.residual.is_some();
    // MLX's own dense product of one row is as fast, that of many rows faster
    if rows > 32 || rows == 0 || (w.quant.is_none() && (rows > 8 || !fused)) {
        return None;
    }
    if k != w.inputs() || !w.is_whole() || (f.gate.is_some() && n % 2 != 0) {
        return None;
    }
    let n = if f.gate.is_some() { n / 2 } else { n };
    let mut out: smallvec::SmallVec<[i32; 4]> = x.shape().into();
    *out.last_mut()? = n;
    let like = |a: &Array, shape: &[i32]| a.dtype() == x.dtype() && a.shape() == shape;
    let fits = f.norm.is_none_or(|(nw, _)| like(nw, &[k]))
        && f.residual.is_none_or(|r| like(r, &out))
        && w.bias.is_none_or(|b| like(b, &[w.outputs()]));
    let traced = || [Some(x), f.norm.map(|n| n.0), f.residual].into_iter().flatten().any(cuda::is_traced);
    if !fits || traced() || w.is_traced() {
        return None;
    }
    gemv::gemv(gpu, x, w, f, None, &out)
}

#[track_caller]
fn plain(x: &Array, w: Matrix<'_>, f: Fused<'_>) -> Array {
    let normed;
    let x = match f.norm {
        Some((weight, eps)) => {
            normed = rms_norm(x, Some(weight), eps);
            &normed
        }
        None => x,
    };
    let mut y = product(x, &w);
    if let Some(b) = w.bias {
        y = y + b;
    }
    if let Some(gate) = f.gate {
        y = halves(&y, gate);
    }
    match f.residual {
        Some(r) => r + y,
        None => y,
    }
}

#[track_caller]
fn halves(y: &Array, gate: Gate) -> Array {
    let parts = y.split(2, -1);
    match parts.as_slice() {
        [g, u] => super::gated(gate, g, u),
        _ => refuse("linear", "a gated product has two halves"),
    }
}

/// x @ w.T, on CUDA in dense form where MLX's quantised kernel is slow.
#[track_caller]
fn product(x: &Array, w: &Matrix<'_>) -> Array {
    let (Some(q), Some(scales)) = (w.quant, w.scales) else {
        return crate::cpu::linear(x, w.weight).unwrap_or_else(|| x.matmul(&w.weight.swapaxes(-1, -2)));
    };
    let rows: i32 = x.shape()[..x.ndim().saturating_sub(1)].iter().product();
    if rows >= MANY_ROWS && cuda::is_half(x.dtype()) && cuda::current_gpu().is_some() && !cuda::is_traced(x) {
        let dense = dequantize(w.weight, scales, w.biases, q, Some(x.dtype()));
        return x.matmul(&dense.swapaxes(-1, -2));
    }
    quantized_matmul(x, w.weight, scales, w.biases, true, q)
}

/// Rows of an embedding table [V, K] times `scale`: ids [...] -> [..., K] of `dtype`.
#[track_caller]
pub fn embed(ids: &Array, table: Matrix<'_>, scale: f32, dtype: Dtype) -> Array {
    let few = || {
        let gpu = cuda::current_gpu()?;
        let usable = table.weight.ndim() == 2 && table.is_whole() && table.bias.is_none() && !table.is_traced();
        let ids = if ids.dtype() == Dtype::Uint32 { ids.clone() } else { ids.astype(Dtype::Uint32) };
        usable.then(|| gemv::embed(gpu, &ids, &table, table.inputs(), dtype, scale))?
    };
    if let Some(rows) = few() {
        return rows;
    }
    let take = |a: &Array| a.take(&ids.reshape(-1), 0);
    let rows = match (table.quant, table.scales) {
        (Some(q), Some(s)) => {
            dequantize(&take(table.weight), &take(s), table.biases.map(take).as_ref(), q, Some(dtype))
        }
        _ => take(table.weight).astype(dtype),
    };
    let mut shape = ids.shape().to_vec();
    shape.push(table.inputs());
    let rows = rows.reshape(shape);
    if scale == 1.0 { rows } else { rows * scale }
}

/// Products with chosen experts: x [T, K] or [T * S, K], W [E, N, K] ([E, 2N, K] with a gate), `experts` [T, S] uint32.
/// Row t * S + s of the result [T * S, N] is x row t (or t * S + s) times expert `experts[t, s]`. Ids are clipped.
///
/// `sorted`: the ids, read in order, never fall, which lets many rows of one expert be multiplied at once.
#[track_caller]
pub fn expert_linear(x: &Array, w: Matrix<'_>, experts: &Array, gate: Option<Gate>, sorted: bool) -> Array {
    if x.ndim() != 2 || w.weight.ndim() != 3 {
        refuse("expert_linear", format!("x {:?}, weights {:?}: 2 and 3 axes expected", x.shape(), w.weight.shape()));
    }
    let rows = experts.size() as i32;
    let share = if x.dim(0) > 0 && rows % x.dim(0) == 0 { rows / x.dim(0) } else { 0 };
    if share == 0 && rows != 0 {
        refuse("expert_linear", format!("{rows} choices for {} rows", x.dim(0)));
    }
    let f = Fused { gate, ..Default::default() };
    let few = || {
        let gpu = cuda::current_gpu()?;
        let n = if gate.is_some() { w.outputs() / 2 } else { w.outputs() };
        let usable = rows <= 64 && rows > 0 && w.is_whole() && w.bias.is_none() && x.dim(-1) == w.inputs();
        let ids = if experts.dtype() == Dtype::Uint32 { experts.clone() } else { experts.astype(Dtype::Uint32) };
        let traced = || cuda::is_traced(x) || cuda::is_traced(experts) || w.is_traced();
        (usable && !traced()).then(|| gemv::gemv(gpu, x, &w, &f, Some(Experts { idx: &ids, share }), &[rows, n]))?
    };
    if let Some(y) = few() {
        return y;
    }
    let ids = experts.reshape(-1).astype(Dtype::Uint32);
    let x = if share > 1 { crate::repeat(x, share, 0) } else { x.clone() };
    let x = x.expand_dims(1);
    let choose = Gather { lhs: None, rhs: Some(&ids), sorted };
    let y = match (w.quant, w.scales) {
        (Some(q), Some(s)) if sorted && rows >= MANY_ROWS && cuda::current_gpu().is_some() && !cuda::is_traced(&x) => {
            let dense = dequantize(w.weight, s, w.biases, q, Some(x.dtype()));
            gather_mm(&x, &dense.swapaxes(-1, -2), None, Some(&ids), sorted)
        }
        (Some(q), Some(s)) => gather_qmm(&x, w.weight, s, w.biases, choose, true, q),
        _ => gather_mm(&x, &w.weight.swapaxes(-1, -2), None, Some(&ids), sorted),
    };
    let mut y = y.squeeze(1);
    if let Some(b) = w.bias {
        y = y + b.take(&ids, 0);
    }
    gate.map_or(y.clone(), |g| halves(&y, g))
}
