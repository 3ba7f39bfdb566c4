//! Products with packed and dense weights.

use super::{View, is_current, op, takes};
use crate::{Array, Dtype, Gather, Quant, QuantMode, plain};
use mlx_kernels::{Matrix, Mode, Quantized};

fn mode(q: Quant) -> Mode {
    match q.mode {
        QuantMode::Affine => Mode::Affine { bits: q.bits as u8, group: q.group_size as u8 },
        QuantMode::Mxfp4 => Mode::Mxfp4,
        QuantMode::Mxfp8 => Mode::Mxfp8,
        QuantMode::Nvfp4 => Mode::Nvfp4,
    }
}

/// The packed matrix in inputs `at..`: words, scales, biases in affine form.
pub(super) fn packed<'a>(inputs: &[View<'a>], at: usize, q: Quant) -> Result<Matrix<'a>, String> {
    let (w, s) = (&inputs[at], &inputs[at + 1]);
    let cols = s.shape().last().map_or(0, |&g| g as usize) * q.group_size as usize;
    let rows = s.size() / s.shape().last().map_or(1, |&g| g.max(1) as usize);
    let quantized = match mode(q) {
        Mode::Affine { bits, group } => {
            Quantized::affine(bits, group, rows, cols, w.bytes(), s.floats()?, inputs[at + 2].floats()?)
        }
        mode => Quantized::float(mode, rows, cols, w.bytes(), s.bytes()),
    };
    quantized.map(Matrix::Quantized).map_err(|e| e.to_string())
}

fn last_replaced(shape: &[i32], n: i32) -> smallvec::SmallVec<[i32; 6]> {
    let mut out: smallvec::SmallVec<[i32; 6]> = shape.iter().copied().collect();
    if let Some(last) = out.last_mut() {
        *last = n;
    }
    out
}

/// Whether scales and offsets are what a mode has.
pub(crate) fn scales_fit(scales: &Array, biases: Option<&Array>, q: Quant) -> bool {
    match (q.mode, biases) {
        (QuantMode::Affine, Some(b)) => takes(scales.dtype()) && b.dtype() == scales.dtype(),
        (QuantMode::Affine, None) => false,
        (_, b) => scales.dtype() == Dtype::Uint8 && b.is_none(),
    }
}

/// x [.., K] @ dequantize(w [N, K]).T, if a kernel takes it.
pub(crate) fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    q: Quant,
) -> Option<Array> {
    if !takes(x.dtype()) || w.ndim() != 2 || x.ndim() == 0 || !scales_fit(scales, biases, q) || !is_current() {
        return None;
    }
    // MLX's result type: that of the operands together
    let dtype = if biases.is_some() { x.dtype().promote(scales.dtype()) } else { x.dtype() };
    if !takes(dtype) || x.dim(-1) != q.unpacked(w.dim(-1)) {
        return None;
    }
    let shape = last_replaced(x.shape(), w.dim(0));
    let inputs: smallvec::SmallVec<[&Array; 4]> = [x, w, scales].into_iter().chain(biases).collect();
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        let w = packed(i, 1, q)?;
        let m = i[0].size() / w.cols().max(1);
        mlx_kernels::matmul(i[0].floats()?, m, &w, None, o[0].floats_mut()?).map_err(|e| e.to_string())
    };
    let fallback = move |a: &[Array]| differentiable(a, q);
    Some(op(c"quantized_matmul", &inputs, (&shape, dtype), 0, kernel, fallback))
}

/// The plain product, whose gradient for x goes through a kernel again: MLX's own takes hundreds of times as long.
fn differentiable(inputs: &[Array], q: Quant) -> Array {
    let product = move |a: &Vec<Array>| plain::quantized_matmul(&a[0], &a[1], &a[2], a.get(3), true, q);
    let vjp = move |a: &Vec<Array>, dy: &Array, _: &Array| {
        let dx = crate::quantized_matmul(dy, &a[1], &a[2], a.get(3), false, q).astype(a[0].dtype());
        // of scales and biases, for those who train them: built lazily, computed only if asked for
        let (x, w) = (a[0].clone(), a[1].clone());
        let parts: Vec<Array> = a[2..].to_vec();
        let plain = |p: &Vec<Array>| plain::quantized_matmul(&x, &w, &p[0], p.get(1), true, q);
        let (_, dparts) = crate::vjp(plain, &parts, dy);
        [dx, crate::zeros_like(&a[1])].into_iter().chain(dparts).collect()
    };
    // of x alone: for tangents of the others the plain product, which is traced too, reports MLX's error
    let jvp = move |a: &Vec<Array>, t: &Vec<Array>| plain::quantized_matmul(&t[0], &a[1], &a[2], a.get(3), true, q);
    crate::CustomFunction::new(product).vjp(vjp).jvp(jvp).call(&inputs.to_vec())
}

/// x [.., N] @ dequantize(w [N, K]), if a kernel takes it.
pub(crate) fn quantized_straight(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    q: Quant,
) -> Option<Array> {
    if !takes(x.dtype()) || w.ndim() != 2 || x.ndim() == 0 || !scales_fit(scales, biases, q) || !is_current() {
        return None;
    }
    let dtype = if biases.is_some() { x.dtype().promote(scales.dtype()) } else { x.dtype() };
    if !takes(dtype) || x.dim(-1) != w.dim(0) {
        return None;
    }
    let shape = last_replaced(x.shape(), q.unpacked(w.dim(-1)));
    let inputs: smallvec::SmallVec<[&Array; 4]> = [x, w, scales].into_iter().chain(biases).collect();
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        let w = packed(i, 1, q)?;
        let m = i[0].size() / w.rows().max(1);
        mlx_kernels::matmul_straight(i[0].floats()?, m, &w, o[0].floats_mut()?).map_err(|e| e.to_string())
    };
    let fallback = move |a: &[Array]| plain::quantized_matmul(&a[0], &a[1], &a[2], a.get(3), false, q);
    Some(op(c"quantized_matmul", &inputs, (&shape, dtype), 0, kernel, fallback))
}

/// x [.., K] @ w [N, K].T for 16-bit weights, and for few rows in float32, if a kernel takes it.
pub(crate) fn linear(x: &Array, w: &Array) -> Option<Array> {
    // float32 with many rows is the BLAS's
    let half = |a: &Array| matches!(a.dtype(), Dtype::Float16 | Dtype::Bfloat16);
    if x.dtype() != w.dtype() || !half(w) || w.ndim() != 2 || x.ndim() == 0 || x.dim(-1) != w.dim(1) || !is_current() {
        return None;
    }
    let shape = last_replaced(x.shape(), w.dim(0));
    let kernel = |i: &[View<'_>], o: &[View<'_>]| {
        let (n, k) = (i[1].shape()[0] as usize, i[1].shape()[1] as usize);
        let w = Matrix::dense(i[1].floats()?, n, k).map_err(|e| e.to_string())?;
        mlx_kernels::matmul(i[0].floats()?, i[0].size() / k.max(1), &w, None, o[0].floats_mut()?)
            .map_err(|e| e.to_string())
    };
    Some(op(c"linear", &[x, w], (&shape, x.dtype()), 0, kernel, |a| {
        // under derivatives in float32: the BLAS knows no 16-bit products
        let wide = |x: &Array| x.astype(Dtype::Float32);
        wide(&a[0]).matmul(&wide(&a[1]).t()).astype(a[0].dtype())
    }))
}

/// Rows of x and w for `gather`: x [.., M, K] with batch axes, indices [..] of both; the flat row lists.
struct Pairs {
    rows_of_x: Vec<u32>,
    experts: Vec<u32>,
}

/// Expert and x batch of each index; M rows of x each.
fn pairs(lhs: &[u32], rhs: &[u32], m: usize) -> Pairs {
    let (mut rows_of_x, mut experts) = (Vec::with_capacity(rhs.len() * m), Vec::with_capacity(rhs.len() * m));
    for (&l, &r) in lhs.iter().zip(rhs) {
        for row in 0..m as u32 {
            rows_of_x.push(l * m as u32 + row);
            experts.push(r);
        }
    }
    Pairs { rows_of_x, experts }
}

/// Indices broadcast against the batch axes of x: (lhs, rhs, result batch shape). `None` where MLX has to decide.
fn gather_plan(x: &Array, rhs: &Array, lhs: Option<&Array>) -> Option<(Array, Array, Vec<i32>)> {
    let batch = &x.shape()[..x.ndim() - 2];
    let lhs = match lhs {
        Some(l) => l.clone(),
        None => {
            let n: i32 = batch.iter().product();
            crate::arange(0, n, 1, Some(Dtype::Uint32)).reshape(batch)
        }
    };
    let shape = crate::broadcast_shapes(&[lhs.shape(), rhs.shape()]);
    let index = |a: &Array| crate::broadcast_to(&a.astype(Dtype::Uint32), &shape[..]);
    Some((index(&lhs), index(rhs), shape))
}

/// `gather_qmm` with transposed packed experts w [E, N, K], if a kernel takes it. Indices are in range.
pub(crate) fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    gather: Gather<'_>,
    q: Quant,
) -> Option<Array> {
    let rhs = gather.rhs?;
    if !takes(x.dtype()) || w.ndim() != 3 || x.ndim() < 2 || !scales_fit(scales, biases, q) || !is_current() {
        return None;
    }
    let dtype = if biases.is_some() { x.dtype().promote(scales.dtype()) } else { x.dtype() };
    if !takes(dtype) || x.dim(-1) != q.unpacked(w.dim(-1)) {
        return None;
    }
    let (l, r, mut shape) = gather_plan(x, rhs, gather.lhs)?;
    shape.extend([x.dim(-2), w.dim(1)]);
    let inputs: smallvec::SmallVec<[&Array; 6]> = [x, &l, &r, w, scales].into_iter().chain(biases).collect();
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        let w = packed(i, 3, q)?;
        gathered(i, &w, i[3].shape()[1] as usize, &o[0])
    };
    let fallback = move |a: &[Array]| {
        let g = Gather { lhs: Some(&a[1]), rhs: Some(&a[2]), sorted: false };
        plain::gather_qmm(&a[0], &a[3], &a[4], a.get(5), g, true, q)
    };
    Some(op(c"gather_qmm", &inputs, (&shape, dtype), 0, kernel, fallback))
}

fn gathered(i: &[View<'_>], w: &Matrix<'_>, n: usize, out: &View<'_>) -> Result<(), String> {
    let shape = i[0].shape();
    let p = pairs(&i[1].indices(), &i[2].indices(), shape[shape.len() - 2] as usize);
    mlx_kernels::gather_matmul(i[0].floats()?, w, n, &p.rows_of_x, &p.experts, None, out.floats_mut()?)
        .map_err(|e| e.to_string())
}

/// x @ w[rhs].T for dense experts w [E, N, K], if a kernel takes it: MLX's own form is float32 only on the CPU.
pub(crate) fn gather_linear(x: &Array, w: &Array, rhs: &Array) -> Option<Array> {
    if !takes(x.dtype())
        || x.dtype() != w.dtype()
        || w.ndim() != 3
        || x.ndim() < 2
        || x.dim(-1) != w.dim(2)
        || !is_current()
    {
        return None;
    }
    let clipped = rhs.minimum(w.dim(0) - 1).maximum(0);
    let (l, r, mut shape) = gather_plan(x, &clipped, None)?;
    shape.extend([x.dim(-2), w.dim(1)]);
    let kernel = |i: &[View<'_>], o: &[View<'_>]| {
        let s = i[3].shape();
        let (e, n, k) = (s[0] as usize, s[1] as usize, s[2] as usize);
        let w = Matrix::dense(i[3].floats()?, e * n, k).map_err(|e| e.to_string())?;
        gathered(i, &w, n, &o[0])
    };
    let fallback = |a: &[Array]| {
        let wide = |x: &Array| x.astype(Dtype::Float32);
        let w = wide(&a[3]).swapaxes(-1, -2);
        crate::gather_mm(&wide(&a[0]), &w, Some(&a[1]), Some(&a[2]), false).astype(a[0].dtype())
    };
    Some(op(c"gather_linear", &[x, &l, &r, w], (&shape, x.dtype()), 0, kernel, fallback))
}
