//! MLX's own forms of the ops that have kernels here: the fallback of every kernel, and the oracle of its tests.

mod linear_scan;
pub mod prefix;
mod selective_scan;
mod short_conv;
mod slot_scan;

pub use linear_scan::linear_scan;
pub use selective_scan::selective_scan;
pub use short_conv::short_conv;
pub use slot_scan::slot_scan;

use crate::cpu::Gate;
use crate::fast::{Mask, Offset, Rope, Sdpa};
use crate::ops::Gather;
use crate::{Array, Dtype, Quant, ffi};
use mlx_sys as sys;

/// [`crate::quantized_matmul`].
#[track_caller]
pub fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    transpose: bool,
    q: Quant,
) -> Array {
    let (g, b, m) = q.c();
    // SAFETY: valid or null handles where null is allowed
    ffi::op("quantized_matmul", &[x, w, scales], |res, s| unsafe {
        sys::mlx_quantized_matmul(res, x.raw, w.raw, scales.raw, ffi::nullable(biases), transpose, g, b, m, s)
    })
}

/// [`crate::gather_qmm`], with indices that are in range.
#[track_caller]
pub(crate) fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    gather: Gather<'_>,
    transpose: bool,
    q: Quant,
) -> Array {
    let (g, b, m) = q.c();
    let (l, r) = (ffi::nullable(gather.lhs), ffi::nullable(gather.rhs));
    let bias = ffi::nullable(biases);
    // SAFETY: valid or null handles where null is allowed; indices are in range
    ffi::op("gather_qmm", &[x, w, scales], |res, s| unsafe {
        sys::mlx_gather_qmm(res, x.raw, w.raw, scales.raw, bias, l, r, transpose, g, b, m, gather.sorted, s)
    })
}

/// [`crate::fast::gather_linear`]. MLX's CPU kernel knows float32 only and ends the process otherwise.
#[track_caller]
pub fn gather_linear(x: &Array, w: &Array, indices: &Array, sorted: bool) -> Array {
    let dtype = x.dtype().promote(w.dtype());
    let (x, w) = if crate::stream::is_cpu() {
        (x.astype(Dtype::Float32), w.astype(Dtype::Float32))
    } else {
        (x.astype(dtype), w.astype(dtype))
    };
    crate::gather_mm(&x, &w.swapaxes(-1, -2), None, Some(indices), sorted).astype(dtype)
}

/// [`crate::fast::rms_norm`].
#[track_caller]
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Array {
    // SAFETY: valid or null handles where null is allowed
    ffi::op("rms_norm", &[x], |res, s| unsafe { sys::mlx_fast_rms_norm(res, x.raw, ffi::nullable(weight), eps, s) })
}

/// [`crate::fast::rope`].
#[track_caller]
pub fn rope(x: &Array, rope: Rope<'_>, offset: Offset<'_>) -> Array {
    let Rope { dims, traditional, base, scale, freqs } = rope;
    let base = ffi::optional_float(freqs.is_none().then_some(base));
    let freqs = ffi::nullable(freqs);
    // SAFETY: valid or null handles where null is allowed
    ffi::op("rope", &[x], |res, s| unsafe {
        match offset {
            Offset::At(n) => sys::mlx_fast_rope(res, x.raw, dims, traditional, base, scale, n, freqs, s),
            Offset::Array(o) => sys::mlx_fast_rope_dynamic(res, x.raw, dims, traditional, base, scale, o.raw, freqs, s),
        }
    })
}

/// [`crate::fast::scaled_dot_product_attention`].
#[track_caller]
pub fn sdpa(q: &Array, k: &Array, v: &Array, o: Sdpa<'_>) -> Array {
    let (mode, mask) = match o.mask {
        None | Some(Mask::None) => (c"", crate::array::NULL),
        Some(Mask::Causal) => (c"causal", crate::array::NULL),
        Some(Mask::Array(a)) => (c"array", a.raw),
    };
    let sinks = ffi::nullable(o.sinks);
    // SAFETY: valid or null handles where null is allowed
    ffi::op("scaled_dot_product_attention", &[q, k, v], |res, s| unsafe {
        sys::mlx_fast_scaled_dot_product_attention(
            res,
            q.raw,
            k.raw,
            v.raw,
            o.scale,
            mode.as_ptr(),
            mask,
            sinks,
            o.force_fused,
            s,
        )
    })
}

/// [`crate::fast::gated`].
#[track_caller]
pub fn gated(act: Gate, gate: &Array, up: &Array) -> Array {
    match act {
        Gate::Silu => gate * gate.sigmoid() * up,
        Gate::GeluTanh => {
            let inner = (2.0f32 / std::f32::consts::PI).sqrt() * (gate + 0.044715 * gate.pow(3));
            0.5 * (gate * (1.0 + inner.tanh())) * up
        }
    }
}
