//! Linear layers with what surrounds them: a norm before, a gated activation or a residual sum after.
//!
//! One function for every backend and weight form. Few rows of x take one kernel that reads each weight once, on CUDA
//! (`cuda/gemv.cuh`) and on the CPU (`mlx/kernels/src/linear.rs`). On CUDA many rows of a quantised weight are multiplied
//! in dense form, since MLX compiles its own kernel for minutes and runs it at a fraction of the card's speed; everything
//! else is composed of plain ops.

pub(super) use super::Gate;
use super::backend::{Kernels, is_traced, kernels};
use super::cuda::gemv::{self, Experts};
use super::{cuda, rms_norm};
use crate::error::refuse;
use crate::{
    Array, Dtype, Gather, Quant, QuantMode, concatenate, cpu, dequantize, gather_mm, gather_qmm, quantized_matmul,
};

/// A weight [..., N, K] as checkpoints hold it: dense, or packed with scales (and offsets in affine mode).
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub weight: &'a Array,
    pub scales: Option<&'a Array>,
    pub biases: Option<&'a Array>,
    pub quant: Option<Quant>,
    /// Added to the product: `[N]`.
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
    pub(super) fn is_traced(&self) -> bool {
        [Some(self.weight), self.scales, self.biases, self.bias].into_iter().flatten().any(is_traced)
    }
    /// Whether the parts belong together; MLX checks the plain form, the kernels rely on this.
    pub(super) fn is_whole(&self) -> bool {
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
    /// x becomes rms_norm(x) with this weight `[K]` and epsilon.
    pub norm: Option<(&'a Array, f32)>,
    /// The product [..., 2N] is a gate and an up half: act(gate) * up [..., N]. Two parts are these halves.
    pub gate: Option<Gate>,
    /// Added last: [..., N].
    pub residual: Option<&'a Array>,
    /// Weights that the following call reads: their start may be brought into the card's cache meanwhile.
    pub next: [Option<&'a Array>; 2],
}

/// Rows of x from which a quantised product on CUDA is cheaper in dense form than by the few-row kernel.
const MANY_ROWS: i32 = 33;

/// x [..., K] times W.T, with what [`Fused`] asks for around it. W is the rows of all `parts` one after the other
/// (q, k, v of an attention, gate and up of an MLP), so that one call reads x once: [..., sum of N], with a gate half.
///
/// ```
/// use mlx::{self as mx, Array, fast};
/// let (x, w) = (mx::ones([1, 32], mx::Dtype::Float32), mx::ones([8, 32], mx::Dtype::Float32));
/// let f = fast::Fused { residual: Some(&Array::from(1.0f32)), ..Default::default() };
/// let y = fast::linear(&x, &[fast::Matrix::dense(&w), fast::Matrix::dense(&w)], f);
/// assert_eq!((y.dim(-1), y.max(()).item::<f32>()?), (16, 33.0));
/// # Ok::<(), mx::Error>(())
/// ```
#[track_caller]
pub fn linear(x: &Array, parts: &[Matrix<'_>], f: Fused<'_>) -> Array {
    match one_kernel(x, &Layer { parts, around: f }) {
        Some(y) => y,
        None => linear_plain(x, parts, f),
    }
}

/// A linear layer: its matrices and what surrounds them, as [`linear`] takes them.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    pub parts: &'a [Matrix<'a>],
    pub around: Fused<'a>,
}

/// [`linear`] of x and then of the result: on the CPU one op for both.
#[track_caller]
pub fn linear_pair(x: &Array, first: Layer<'_>, second: Layer<'_>) -> Array {
    if let (Some(Kernels::Cpu), false) = (kernels(), is_traced(x))
        && let Some(inner) = result_shape(Kernels::Cpu, x.shape(), x.dtype(), &first)
        && let Some(out) = result_shape(Kernels::Cpu, &inner, x.dtype(), &second)
    {
        return cpu::fused_linear(x, &first, Some(&second), &out);
    }
    linear(&linear(x, first.parts, first.around), second.parts, second.around)
}

/// Most rows of x, and most parts, that the CPU takes in one kernel.
const CPU_ROWS: usize = 8;
const CPU_PARTS: usize = 4;

/// Whether one kernel is how these should be multiplied here.
fn pays(kernels: Kernels, x: &Array, l: &Layer<'_>) -> bool {
    let f = &l.around;
    let rows = x.size() / x.dim(-1).max(1) as usize;
    let fused = f.norm.is_some() || f.gate.is_some() || f.residual.is_some() || l.parts.len() > 1;
    let dense = l.parts.iter().any(|p| p.quant.is_none());
    match kernels {
        // MLX's own dense product of one row is as fast, that of many rows faster
        Kernels::Cuda(_) => rows <= 32 && !(dense && (rows > 8 || !fused)),
        // a product alone has kernels with derivatives, except in float32
        Kernels::Cpu => fused || (dense && x.dtype() == Dtype::Float32),
    }
}

type Shape = smallvec::SmallVec<[i32; 4]>;

/// The shape of the result if one kernel computes this layer of an x of this shape and type, which no transform watches.
pub(super) fn result_shape(kernels: Kernels, x: &[i32], dtype: Dtype, l: &Layer<'_>) -> Option<Shape> {
    let (parts, f) = (l.parts, &l.around);
    let (&k, lead) = x.split_last()?;
    let rows: usize = lead.iter().map(|&n| n as usize).product();
    if !kernels.takes(dtype) || k == 0 || rows == 0 || parts.is_empty() {
        return None;
    }
    let on_cpu = matches!(kernels, Kernels::Cpu);
    if on_cpu && (rows > CPU_ROWS || parts.len() > CPU_PARTS || !parts.iter().all(|w| cpu_takes(dtype, w))) {
        return None;
    }
    if !parts.iter().all(|w| w.weight.ndim() == 2 && w.inputs() == k && w.is_whole()) {
        return None;
    }
    let mut n: i32 = parts.iter().map(Matrix::outputs).sum();
    if f.gate.is_some() {
        if n % 2 != 0 || parts.len() > 2 || (parts.len() == 2 && parts[0].outputs() * 2 != n) {
            return None;
        }
        n /= 2;
    }
    let mut out: Shape = x.into();
    *out.last_mut()? = n;
    let like = |a: &Array, shape: &[i32]| kernels.takes_with(dtype, a.dtype()) && a.shape() == shape;
    let fits = f.norm.is_none_or(|(nw, _)| like(nw, &[k]))
        && f.residual.is_none_or(|r| like(r, &out))
        && parts.iter().all(|w| w.bias.is_none_or(|b| like(b, &[w.outputs()])));
    let traced = || [f.norm.map(|n| n.0), f.residual].into_iter().flatten().any(is_traced);
    (fits && !traced() && !parts.iter().any(Matrix::is_traced)).then_some(out)
}

fn one_kernel(x: &Array, l: &Layer<'_>) -> Option<Array> {
    let kernels = kernels()?;
    if x.ndim() == 0 || !pays(kernels, x, l) || is_traced(x) {
        return None;
    }
    let out = result_shape(kernels, x.shape(), x.dtype(), l)?;
    let (k, rows) = (x.dim(-1), x.size() / x.dim(-1).max(1) as usize);
    match (kernels, l.around.norm) {
        (Kernels::Cpu, _) => Some(cpu::fused_linear(x, l, None, &out)),
        (Kernels::Cuda(gpu), Some((weight, eps))) if !gemv::stages(rows, k) => {
            let normed = rms_norm(x, Some(weight), eps);
            gemv::gemv(gpu, &normed, l.parts, &Fused { norm: None, ..l.around }, None, &out)
        }
        (Kernels::Cuda(gpu), _) => gemv::gemv(gpu, x, l.parts, &l.around, None, &out),
    }
}

/// Whether the CPU's kernels multiply with this weight, in the type of x as the plain form does.
fn cpu_takes(x: Dtype, w: &Matrix<'_>) -> bool {
    match (w.quant, w.scales) {
        (Some(q), Some(s)) => {
            cpu::scales_fit(s, w.biases, q) && (q.mode != QuantMode::Affine || cpu::takes_with(x, s.dtype()))
        }
        _ => cpu::takes_with(x, w.weight.dtype()),
    }
}

/// [`linear`] from plain ops.
#[track_caller]
pub fn linear_plain(x: &Array, parts: &[Matrix<'_>], f: Fused<'_>) -> Array {
    let normed;
    let x = match f.norm {
        Some((weight, eps)) => {
            normed = rms_norm(x, Some(weight), eps);
            &normed
        }
        None => x,
    };
    let with_bias = |w: &Matrix<'_>| {
        let y = product(x, w);
        w.bias.map_or(y.clone(), |b| y + b)
    };
    let y = match (parts, f.gate) {
        ([], _) => refuse("linear", "no weight"),
        ([g, u], Some(gate)) => super::gated(gate, &with_bias(g), &with_bias(u)),
        ([one], None) => with_bias(one),
        (many, gate) => {
            let y = concatenate(&many.iter().map(with_bias).collect::<Vec<_>>(), -1);
            gate.map_or(y.clone(), |g| halves(&y, g))
        }
    };
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

/// x @ w.T, on CUDA in dense form where MLX's quantised kernel is slow. Not for derivatives: dense forms of all layers
/// would lie in memory at once.
#[track_caller]
fn product(x: &Array, w: &Matrix<'_>) -> Array {
    let rows: i32 = x.shape()[..x.ndim().saturating_sub(1)].iter().product();
    let many = rows >= MANY_ROWS && cuda::is_half(x.dtype()) && cuda::current_gpu().is_some() && !is_traced(x);
    match (w.quant, w.scales) {
        (Some(q), Some(scales)) if many => {
            let dense = dequantize(w.weight, scales, w.biases, q, Some(x.dtype()));
            x.matmul(&dense.swapaxes(-1, -2))
        }
        _ => product_packed(x, w),
    }
}

/// As [`product`], with a packed weight as it is.
#[track_caller]
pub(super) fn product_packed(x: &Array, w: &Matrix<'_>) -> Array {
    match (w.quant, w.scales) {
        (Some(q), Some(scales)) => quantized_matmul(x, w.weight, scales, w.biases, true, q),
        _ => cpu::linear(x, w.weight).unwrap_or_else(|| x.matmul(&w.weight.swapaxes(-1, -2))),
    }
}

/// The gradient of x of this type, dy @ w, plus `sum`.
#[track_caller]
pub(super) fn product_back(dy: &Array, w: &Matrix<'_>, dtype: Dtype, sum: Option<&Array>) -> Array {
    let dx = match (w.quant, w.scales) {
        (Some(q), Some(s)) => quantized_matmul(dy, w.weight, s, w.biases, false, q).astype(dtype),
        // the CPU's BLAS knows no 16-bit products
        _ if cpu::is_current() && dtype.size() < 4 => {
            dy.astype(Dtype::Float32).matmul(&w.weight.astype(Dtype::Float32)).astype(dtype)
        }
        _ if dy.dtype() == dtype && w.weight.dtype() == dtype => {
            return match sum {
                Some(sum) => crate::addmm(sum, dy, w.weight, 1.0, 1.0),
                None => dy.matmul(w.weight),
            };
        }
        _ => dy.matmul(w.weight).astype(dtype),
    };
    sum.map_or(dx.clone(), |sum| sum + dx)
}

/// Rows of an embedding table [V, K] times `scale`, in the dtype of the table or its scales: ids [...] (uint32) ->
/// [..., K]; ids out of range are clipped. `None` where no single kernel does it.
#[track_caller]
pub fn embed_fused(ids: &Array, table: &Matrix<'_>, scale: f32) -> Option<Array> {
    let kernels = kernels()?;
    let dtype = match (table.quant.map(|q| q.mode), table.scales) {
        (None, _) => table.weight.dtype(),
        (Some(QuantMode::Affine), Some(s)) => s.dtype(),
        _ => Dtype::Bfloat16,
    };
    let usable = table.weight.ndim() == 2 && table.is_whole() && table.bias.is_none() && !table.is_traced();
    match kernels {
        Kernels::Cuda(gpu) => usable.then(|| gemv::embed(gpu, ids, table, table.inputs(), dtype, scale))?,
        Kernels::Cpu => {
            let scales_fit =
                table.quant.is_none_or(|q| table.scales.is_some_and(|s| cpu::scales_fit(s, table.biases, q)));
            let fits = scales_fit && cpu::takes(dtype) && scale == 1.0 && ids.dtype() == Dtype::Uint32;
            (usable && fits && !is_traced(ids)).then(|| cpu::embed(ids, table, dtype))
        }
    }
}

/// Products with chosen experts, as [`linear`] with matrices [E, N, K]: x [..., 1 or S, 1, K], `experts` [..., S]
/// (clipped to E) -> [..., S, 1, N]. Of [`Fused`] only the gate applies.
///
/// `sorted`: the ids, read in order, never fall, which lets many rows of one expert be multiplied at once.
#[track_caller]
pub fn expert_linear(x: &Array, parts: &[Matrix<'_>], experts: &Array, gate: Option<Gate>, sorted: bool) -> Array {
    if let Some(y) = few_experts(x, parts, experts, gate) {
        return y;
    }
    let with_bias = |w: &Matrix<'_>| {
        let y = expert_product(x, w, experts, sorted);
        w.bias.map_or(y.clone(), |b| y + b.take(experts, 0).expand_dims(-2))
    };
    match (parts, gate) {
        ([g, u], Some(gate)) => super::gated(gate, &with_bias(g), &with_bias(u)),
        ([one], gate) => {
            let y = with_bias(one);
            gate.map_or(y.clone(), |g| halves(&y, g))
        }
        _ => refuse("expert_linear", format!("{} matrices", parts.len())),
    }
}

/// How many token-expert pairs one launch takes: each reads its matrix by itself.
const FEW_PAIRS: usize = 64;

fn few_experts(x: &Array, parts: &[Matrix<'_>], experts: &Array, gate: Option<Gate>) -> Option<Array> {
    cuda::current_gpu()?;
    let (nd, pairs) = (x.ndim(), experts.size());
    if pairs == 0 || pairs > FEW_PAIRS || nd < 3 || experts.ndim() + 2 != nd || x.dim(-2) != 1 {
        return None;
    }
    let slots = experts.dim(-1);
    let (lead, width) = (&x.shape()[..nd - 3], x.dim(-3));
    if lead != &experts.shape()[..nd - 3] || (width != 1 && width != slots) {
        return None;
    }
    let ids = if experts.dtype() == Dtype::Uint32 { experts.clone() } else { experts.astype(Dtype::Uint32) };
    few_experts_flat(x, parts, &ids, gate, if width == 1 { slots } else { 1 }).map(|y| y.expand_dims(-2))
}

/// As [`expert_linear`] for few pairs: row i / share of x with expert `ids[i]` (uint32 [..., S]) -> [..., S, N].
pub(super) fn few_experts_flat(
    x: &Array,
    parts: &[Matrix<'_>],
    ids: &Array,
    gate: Option<Gate>,
    share: i32,
) -> Option<Array> {
    let gpu = cuda::current_gpu()?;
    let (k, pairs) = (*x.shape().last()?, ids.size());
    let usable = pairs > 0
        && pairs <= FEW_PAIRS
        && parts.iter().all(|w| w.weight.ndim() == 3 && w.is_whole() && w.bias.is_none() && w.inputs() == k)
        && parts.windows(2).all(|p| p[0].weight.shape() == p[1].weight.shape())
        && (parts.len() == 1 || (parts.len() == 2 && gate.is_some()));
    if !usable || is_traced(x) || is_traced(ids) || parts.iter().any(Matrix::is_traced) {
        return None;
    }
    let first = parts.first()?;
    let n = if gate.is_some() && parts.len() == 1 { first.outputs() / 2 } else { first.outputs() };
    let mut shape: smallvec::SmallVec<[i32; 5]> = ids.shape().into();
    shape.push(n);
    let f = Fused { gate, ..Default::default() };
    gemv::gemv(gpu, x, parts, &f, Some(Experts { idx: ids, share }), &shape)
}

/// One matrix of [`expert_linear`] from plain ops; on CUDA many rows of quantised experts go through a dense copy, since
/// MLX's quantised form multiplies every pair by itself.
#[track_caller]
fn expert_product(x: &Array, w: &Matrix<'_>, experts: &Array, sorted: bool) -> Array {
    match (w.quant, w.scales) {
        (Some(q), Some(s)) => {
            let many = sorted && experts.size() > FEW_PAIRS && experts.ndim() == 1;
            if many && cuda::is_half(x.dtype()) && cuda::current_gpu().is_some() && !is_traced(x) {
                let dense = dequantize(w.weight, s, w.biases, q, Some(x.dtype()));
                // a fresh shape: MLX's grouped product misreads the stride that expand_dims gives an axis of one
                let x = crate::contiguous(x).reshape([x.dim(0), 1, -1]);
                return gather_mm(&x, &dense.swapaxes(-1, -2), None, Some(experts), true);
            }
            gather_qmm(x, w.weight, s, w.biases, Gather { rhs: Some(experts), sorted, ..Default::default() }, true, q)
        }
        _ => super::gather_linear(x, w.weight, experts, sorted),
    }
}
