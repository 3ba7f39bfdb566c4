//! Linear layers with what surrounds them: a norm before, a gated activation or a residual sum after.
//!
//! One function for every backend and weight form. On CUDA few rows of x take one kernel that reads each weight once
//! (`cuda/gemv.cuh`) and many rows of a quantised weight are multiplied in dense form, since MLX compiles its own
//! kernel for minutes and runs it at a fraction of the card's speed; everything else is composed of plain ops.

pub(super) use super::Gate;
use super::cuda::gemv::{self, Experts};
use super::{cuda, rms_norm};
use crate::error::refuse;
use crate::{Array, Dtype, Gather, Quant, QuantMode, concatenate, dequantize, gather_mm, gather_qmm, quantized_matmul};

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
    match on_gpu(x, parts, &f) {
        Some(y) => y,
        None => linear_plain(x, parts, f),
    }
}

/// Whether [`linear`] and the decode step run as single kernels here: ops of this thread go to a card that has them.
pub fn is_fused() -> bool {
    cuda::current_gpu().is_some()
}

fn on_gpu(x: &Array, parts: &[Matrix<'_>], f: &Fused<'_>) -> Option<Array> {
    let gpu = cuda::current_gpu()?;
    if x.ndim() == 0 || !cuda::is_half(x.dtype()) {
        return None;
    }
    let (k, rows) = (x.dim(-1), x.size() / x.dim(-1).max(1) as usize);
    let fused = f.norm.is_some() || f.gate.is_some() || f.residual.is_some() || parts.len() > 1;
    let dense = parts.iter().any(|p| p.quant.is_none());
    // MLX's own dense product of one row is as fast, that of many rows faster
    if rows > 32 || rows == 0 || (dense && (rows > 8 || !fused)) {
        return None;
    }
    if !parts.iter().all(|w| w.weight.ndim() == 2 && w.inputs() == k && w.is_whole()) {
        return None;
    }
    let mut n: i32 = parts.iter().map(Matrix::outputs).sum();
    if f.gate.is_some() {
        if n % 2 != 0 || (parts.len() == 2 && parts[0].outputs() * 2 != n) {
            return None;
        }
        n /= 2;
    }
    let mut out: smallvec::SmallVec<[i32; 4]> = x.shape().into();
    *out.last_mut()? = n;
    let like = |a: &Array, shape: &[i32]| a.dtype() == x.dtype() && a.shape() == shape;
    let fits = f.norm.is_none_or(|(nw, _)| like(nw, &[k]))
        && f.residual.is_none_or(|r| like(r, &out))
        && parts.iter().all(|w| w.bias.is_none_or(|b| like(b, &[w.outputs()])));
    let traced = || [Some(x), f.norm.map(|n| n.0), f.residual].into_iter().flatten().any(cuda::is_traced);
    if !fits || traced() || parts.iter().any(Matrix::is_traced) {
        return None;
    }
    match f.norm {
        Some((weight, eps)) if !gemv::stages(rows, k) => {
            let normed = rms_norm(x, Some(weight), eps);
            gemv::gemv(gpu, &normed, parts, &Fused { norm: None, ..*f }, None, &out)
        }
        _ => gemv::gemv(gpu, x, parts, f, None, &out),
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

/// Rows of an embedding table [V, K] times `scale`, in the dtype of the table or its scales: ids [...] (uint32) ->
/// [..., K]; ids out of range are clipped. `None` where no single kernel does it.
#[track_caller]
pub fn embed_fused(ids: &Array, table: &Matrix<'_>, scale: f32) -> Option<Array> {
    let gpu = cuda::current_gpu()?;
    let dtype = match (table.quant.map(|q| q.mode), table.scales) {
        (None, _) => table.weight.dtype(),
        (Some(QuantMode::Affine), Some(s)) => s.dtype(),
        _ => Dtype::Bfloat16,
    };
    let usable = table.weight.ndim() == 2 && table.is_whole() && table.bias.is_none() && !table.is_traced();
    usable.then(|| gemv::embed(gpu, ids, table, table.inputs(), dtype, scale))?
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
    if !usable || cuda::is_traced(x) || cuda::is_traced(ids) || parts.iter().any(Matrix::is_traced) {
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
            if many && cuda::is_half(x.dtype()) && cuda::current_gpu().is_some() && !cuda::is_traced(x) {
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
