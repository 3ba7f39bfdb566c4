//! Quantised weights: packing and products.

use crate::dtype::Dtype;
use crate::error::refuse;
use crate::ops::matmul::batch_indices;
use crate::{Array, ffi};
use mlx_sys as sys;
use std::ffi::CStr;

/// How quantised values are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QuantMode {
    /// w = scale * q + bias; 2, 3, 4, 5, 6 or 8 bits, groups of 32, 64 or 128.
    #[default]
    Affine,
    /// OCP microscaling, 4-bit e2m1 with a power-of-two scale for 32.
    Mxfp4,
    /// OCP microscaling, 8-bit e4m3 with a power-of-two scale for 32.
    Mxfp8,
    /// 4-bit e2m1 with an e4m3 scale for 16.
    Nvfp4,
}

impl QuantMode {
    pub fn name(self) -> &'static str {
        match self {
            QuantMode::Affine => "affine",
            QuantMode::Mxfp4 => "mxfp4",
            QuantMode::Mxfp8 => "mxfp8",
            QuantMode::Nvfp4 => "nvfp4",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4].into_iter().find(|m| m.name() == name)
    }
    pub(crate) fn c(self) -> &'static CStr {
        match self {
            QuantMode::Affine => c"affine",
            QuantMode::Mxfp4 => c"mxfp4",
            QuantMode::Mxfp8 => c"mxfp8",
            QuantMode::Nvfp4 => c"nvfp4",
        }
    }
    /// Default (group size, bits).
    pub fn defaults(self) -> (i32, i32) {
        match self {
            QuantMode::Affine => (64, 4),
            QuantMode::Mxfp4 => (32, 4),
            QuantMode::Mxfp8 => (32, 8),
            QuantMode::Nvfp4 => (16, 4),
        }
    }
}

/// Group size, bits and mode of a quantised array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quant {
    pub group_size: i32,
    pub bits: i32,
    pub mode: QuantMode,
}

impl Default for Quant {
    fn default() -> Self {
        Quant::of_mode(QuantMode::Affine)
    }
}

impl Quant {
    pub fn affine(group_size: i32, bits: i32) -> Self {
        Quant { group_size, bits, mode: QuantMode::Affine }
    }
    /// The mode's default group size and bits.
    pub fn of_mode(mode: QuantMode) -> Self {
        let (group_size, bits) = mode.defaults();
        Quant { group_size, bits, mode }
    }

    /// Whether MLX knows this combination; anything else would divide by zero inside it.
    pub fn is_valid(self) -> bool {
        match self.mode {
            QuantMode::Affine => matches!(self.group_size, 32 | 64 | 128) && matches!(self.bits, 2..=6 | 8),
            mode => (self.group_size, self.bits) == mode.defaults(),
        }
    }

    /// Unpacked width of a packed last dimension.
    pub fn unpacked(self, words: i32) -> i32 {
        (words as i64 * 32 / self.bits.max(1) as i64) as i32
    }

    #[track_caller]
    fn check(self, op: &str) {
        if !self.is_valid() {
            refuse(op, format!("{self:?} is not supported"));
        }
    }
    pub(crate) fn c(self) -> (sys::mlx_optional_int, sys::mlx_optional_int, *const std::ffi::c_char) {
        (ffi::optional_int(Some(self.group_size)), ffi::optional_int(Some(self.bits)), self.mode.c().as_ptr())
    }
}

/// Packs `w` [..., K] along the last axis: (packed uint32, scales, biases); biases only in affine mode.
#[track_caller]
pub fn quantize(w: &Array, q: Quant) -> (Array, Array, Option<Array>) {
    quantize_with(w, q, None)
}

/// [`quantize`] with a float32 scale of the whole array, which nvfp4 knows.
#[track_caller]
pub fn quantize_with(w: &Array, q: Quant, global_scale: Option<&Array>) -> (Array, Array, Option<Array>) {
    q.check("quantize");
    let (g, b, m) = q.c();
    // SAFETY: valid handles; null global scale is allowed
    let mut v = ffi::op_many("quantize", &[w], |res, s| unsafe {
        sys::mlx_quantize(res, w.raw, g, b, m, ffi::nullable(global_scale), s)
    })
    .into_iter();
    match (v.next(), v.next(), v.next()) {
        (Some(w), Some(s), b) => (w, s, b),
        _ => refuse("quantize", "at least two results expected"),
    }
}

/// The dense form of a quantised array; `None` takes the scales' dtype.
#[track_caller]
pub fn dequantize(w: &Array, scales: &Array, biases: Option<&Array>, q: Quant, dtype: Option<Dtype>) -> Array {
    dequantize_with(w, scales, biases, q, dtype, None)
}

/// [`dequantize`] with the scale of the whole array that [`quantize_with`] took.
#[track_caller]
pub fn dequantize_with(
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    q: Quant,
    dtype: Option<Dtype>,
    global_scale: Option<&Array>,
) -> Array {
    q.check("dequantize");
    check_packed("dequantize", w, scales, biases, q);
    let (g, b, m) = q.c();
    // SAFETY: valid or null handles where null is allowed
    ffi::op("dequantize", &[w, scales], |res, s| unsafe {
        sys::mlx_dequantize(
            res,
            w.raw,
            scales.raw,
            ffi::nullable(biases),
            g,
            b,
            m,
            ffi::nullable(global_scale),
            ffi::optional_dtype(dtype),
            s,
        )
    })
}

#[track_caller]
fn check_packed(op: &str, w: &Array, scales: &Array, biases: Option<&Array>, q: Quant) {
    let fits = w.ndim() >= 2
        && w.dtype() == Dtype::Uint32
        && scales.ndim() == w.ndim()
        && scales.dim(-2) == w.dim(-2)
        && q.unpacked(w.dim(-1)) as i64 == scales.dim(-1) as i64 * q.group_size as i64
        && (q.mode == QuantMode::Affine) == biases.is_some()
        && biases.is_none_or(|b| b.shape() == scales.shape());
    if !fits {
        refuse(
            op,
            format!(
                "packed {:?} {}, scales {:?}, biases {:?} do not belong to {q:?}",
                w.shape(),
                w.dtype(),
                scales.shape(),
                biases.map(Array::shape)
            ),
        );
    }
}

/// `x @ dequantize(w)`, with `transpose` `x @ dequantize(w).T` as in a linear layer.
#[track_caller]
pub fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    transpose: bool,
    q: Quant,
) -> Array {
    q.check("quantized_matmul");
    check_packed("quantized_matmul", w, scales, biases, q);
    let fast = match transpose {
        true => crate::cpu::quantized_matmul(x, w, scales, biases, q),
        false => crate::cpu::quantized_straight(x, w, scales, biases, q),
    };
    if let Some(product) = fast {
        return product;
    }
    if !crate::stream::is_cuda() {
        return crate::plain::quantized_matmul(x, w, scales, biases, transpose, q);
    }
    // MLX 0.32.2 lacks kernels there for many shapes of float32, takes no matrices with gaps, and compiles for half a
    // minute before its first product of a batch with 8 rows or more
    if x.dtype() == Dtype::Float32 || (w.ndim() > 2 && x.ndim() > 1 && x.dim(-2) >= 8) {
        let dense = crate::dequantize(w, scales, biases, q, Some(x.dtype()));
        return x.matmul(&if transpose { dense.swapaxes(-1, -2) } else { dense });
    }
    let [w, scales] = [w, scales].map(without_gaps);
    crate::plain::quantized_matmul(x, &w, &scales, biases.map(without_gaps).as_ref(), transpose, q)
}

/// A batch of matrices may be a view; a single one is as its layer keeps it.
fn without_gaps(w: &Array) -> Array {
    if w.ndim() > 2 { crate::contiguous(w) } else { w.clone() }
}

/// Which matrices of a batch [`gather_qmm`] multiplies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gather<'a> {
    /// Indices into the batch axes of `x`.
    pub lhs: Option<&'a Array>,
    /// Indices into the batch axes of `w`.
    pub rhs: Option<&'a Array>,
    /// Whether `rhs` is sorted, which some backends use.
    pub sorted: bool,
}

/// Quantised [`gather_mm`](crate::gather_mm); indices out of range are clipped.
#[track_caller]
pub fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    gather: Gather<'_>,
    transpose: bool,
    q: Quant,
) -> Array {
    q.check("gather_qmm");
    check_packed("gather_qmm", w, scales, biases, q);
    let (lhs, rhs) = (batch_indices("gather_qmm", x, gather.lhs), batch_indices("gather_qmm", w, gather.rhs));
    let gather = Gather { lhs: lhs.as_ref(), rhs: rhs.as_ref(), sorted: gather.sorted };
    let fast = if transpose { crate::cpu::gather_qmm(x, w, scales, biases, gather, q) } else { None };
    fast.unwrap_or_else(|| crate::plain::gather_qmm(x, w, scales, biases, gather, transpose, q))
}

/// Weights of [`qqmm`]: dense, or packed with their scales.
#[derive(Debug, Clone, Copy, Default)]
pub struct Qq<'a> {
    /// Scales of a packed `w`; `None` quantises a dense `w` on the fly.
    pub scales: Option<&'a Array>,
    /// Scale of the whole `x` (nvfp4).
    pub global_scale_x: Option<&'a Array>,
    /// Scale of the whole `w` (nvfp4).
    pub global_scale_w: Option<&'a Array>,
}

#[track_caller]
fn check_qq(op: &str, w: &Array, scales: Option<&Array>, q: Quant) {
    q.check(op);
    if q.mode == QuantMode::Affine {
        refuse(op, "affine quantisation is not supported");
    }
    match scales {
        Some(scales) => check_packed(op, w, scales, None, q),
        None if w.dtype() == Dtype::Uint32 => refuse(op, "a packed weight needs its scales"),
        None => {}
    }
}

/// `x @ w.T` with both sides quantised (not in affine mode).
#[track_caller]
pub fn qqmm(x: &Array, w: &Array, o: Qq<'_>, q: Quant) -> Array {
    check_qq("qqmm", w, o.scales, q);
    let (g, b, m) = q.c();
    let (sc, gx, gw) = (ffi::nullable(o.scales), ffi::nullable(o.global_scale_x), ffi::nullable(o.global_scale_w));
    // SAFETY: valid or null handles where null is allowed
    ffi::op("qqmm", &[x, w], |res, s| unsafe { sys::mlx_qqmm(res, x.raw, w.raw, sc, g, b, m, gx, gw, s) })
}

/// [`qqmm`] of chosen matrices; indices out of range are clipped.
#[track_caller]
pub fn gather_qqmm(x: &Array, w: &Array, o: Qq<'_>, gather: Gather<'_>, q: Quant) -> Array {
    check_qq("gather_qqmm", w, o.scales, q);
    let (l, r) = (batch_indices("gather_qqmm", x, gather.lhs), batch_indices("gather_qqmm", w, gather.rhs));
    let (l, r) = (ffi::nullable(l.as_ref()), ffi::nullable(r.as_ref()));
    let (g, b, m) = q.c();
    let (sc, gx, gw) = (ffi::nullable(o.scales), ffi::nullable(o.global_scale_x), ffi::nullable(o.global_scale_w));
    // SAFETY: valid or null handles where null is allowed; indices are in range
    ffi::op("gather_qqmm", &[x, w], |res, s| unsafe {
        sys::mlx_gather_qqmm(res, x.raw, w.raw, sc, l, r, g, b, m, gx, gw, gather.sorted, s)
    })
}
