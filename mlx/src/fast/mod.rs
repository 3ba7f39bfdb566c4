//! Fused ops (`mlx.core.fast`) and this crate's own: linear layers with their surroundings, decode attention, recurrences.

mod adam;
mod backend;
mod buffer;
mod cuda;
mod decode;
mod experts;
mod kernel;
mod latent;
mod layers;
mod linear;
mod low_rank;
mod pages;
mod products;
mod recurrent;

pub(crate) use adam::{AdamStep, adam_fused};
pub use backend::{has_layer_kernels, is_fused};
pub use buffer::share_buffer;
pub use decode::{DecodeAttention, KvBuffers, Place, Rotation};
pub use experts::{RouteScores, RouteWeights, Routing, combine_fused, expert_rows_fused, route_fused};
pub use kernel::{
    Kernel, KernelScalar, KernelSource, Launch, Template, cuda_kernel, metal_kernel, precompiled_cuda_kernel,
};
pub use latent::LatentAttention;
pub use layers::{
    Columns, DeltaLayer, HeadGate, LogDecay, ShortConv, SpaceLayer, Stepped, UnitLength, WkvLayer, delta_fused,
    gated_norm_fused, space_fused, token_mix_fused, wkv_fused,
};
pub use linear::{Fused, Layer, Matrix, embed_fused, expert_linear, linear, linear_pair, linear_plain};
pub(crate) use low_rank::{LowRank, low_rank_linear};
pub use products::{After, Product, product_plain, products_fused};
pub use recurrent::{LinearScan, Rule, SelectiveScan, linear_scan, selective_scan, short_conv, slot_scan};

pub use crate::cpu::Gate;
use crate::error::refuse;
use crate::{Array, ffi};
use mlx_sys as sys;

/// x / rms(x) * weight over the last axis, computed in float32 (`mx.fast.rms_norm`).
#[track_caller]
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Array {
    crate::cpu::rms_norm(x, weight, eps).unwrap_or_else(|| crate::plain::rms_norm(x, weight, eps))
}

/// (x - mean) / std * weight + bias over the last axis (`mx.fast.layer_norm`).
#[track_caller]
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Array {
    // SAFETY: valid or null handles where null is allowed
    ffi::op("layer_norm", &[x], |res, s| unsafe {
        sys::mlx_fast_layer_norm(res, x.raw, ffi::nullable(weight), ffi::nullable(bias), eps, s)
    })
}

/// x [.., 1 or K, M, in] @ w [E, out, in].T of each index [.., K]: the product of a layer of experts.
///
/// Indices out of range are clipped; `sorted` says that they ascend.
#[track_caller]
pub fn gather_linear(x: &Array, w: &Array, indices: &Array, sorted: bool) -> Array {
    crate::cpu::gather_linear(x, w, indices).unwrap_or_else(|| crate::plain::gather_linear(x, w, indices, sorted))
}

/// act(gate) * up, the middle of a gated MLP.
#[track_caller]
pub fn gated(act: Gate, gate: &Array, up: &Array) -> Array {
    crate::cpu::gated(act, gate, up).unwrap_or_else(|| crate::plain::gated(act, gate, up))
}

/// Options of [`rope`].
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// How many leading features rotate.
    pub dims: i32,
    /// Pairs are neighbours (true) or halves (false).
    pub traditional: bool,
    /// Base of the frequencies; not read with `freqs`.
    pub base: f32,
    /// Factor on positions.
    pub scale: f32,
    /// Explicit wavelengths [dims / 2] in place of `base`.
    pub freqs: Option<&'a Array>,
}

impl Default for Rope<'_> {
    fn default() -> Self {
        Rope { dims: 0, traditional: false, base: 10000.0, scale: 1.0, freqs: None }
    }
}

/// Position of the first token: one number, or one per batch row.
#[derive(Debug, Clone, Copy)]
pub enum Offset<'a> {
    At(i32),
    /// int32 scalar or `[B]`.
    Array(&'a Array),
}

impl From<i32> for Offset<'_> {
    fn from(n: i32) -> Self {
        Offset::At(n)
    }
}
impl<'a> From<&'a Array> for Offset<'a> {
    fn from(a: &'a Array) -> Self {
        Offset::Array(a)
    }
}

/// Rotary position embedding of x [B, ..., L, D] (`mx.fast.rope`).
#[track_caller]
pub fn rope<'o>(x: &Array, rope: Rope<'_>, offset: impl Into<Offset<'o>>) -> Array {
    let offset = offset.into();
    if let Some(y) = crate::cpu::rope(x, rope, offset) {
        return y;
    }
    if crate::stream::is_cuda() {
        // MLX 0.32.2's CUDA kernel reads and writes past views whose rows do not follow each other: neither x nor the
        // cotangent, which the same kernel turns back, may be one
        let turned = crate::plain::rope(&crate::contiguous(x), rope, offset);
        return crate::CustomFunction::new(Array::clone)
            .vjp(|_, cotangent: &Array, _| crate::contiguous(cotangent))
            .jvp(|_, tangent: &Array| tangent.clone())
            .vmap(|x: &Array, axes| (x.clone(), axes.to_vec()))
            .call(&turned);
    }
    crate::plain::rope(x, rope, offset)
}

/// Which keys a query sees.
#[derive(Debug, Clone, Default)]
pub enum Mask {
    #[default]
    None,
    /// Query i of L sees keys up to i + S - L.
    Causal,
    /// Bool (true = seen) or additive, broadcast to [B, H, L, S].
    Array(Array),
}

impl From<Array> for Mask {
    fn from(a: Array) -> Self {
        Mask::Array(a)
    }
}

/// Options of [`scaled_dot_product_attention`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Sdpa<'a> {
    pub scale: f32,
    pub mask: Option<&'a Mask>,
    /// One logit per head that takes part in the softmax and carries no value.
    pub sinks: Option<&'a Array>,
    /// Refuse instead of falling back to matmul + softmax where no fused kernel exists.
    pub force_fused: bool,
}

/// softmax(scale * q k^T + mask) v for q [B, H, L, D], k [B, Hkv, S, D], v [B, Hkv, S, Dv]; H is a multiple of Hkv.
#[track_caller]
pub fn scaled_dot_product_attention(q: &Array, k: &Array, v: &Array, o: Sdpa<'_>) -> Array {
    crate::cpu::sdpa(q, k, v, o).unwrap_or_else(|| crate::plain::sdpa(q, k, v, o))
}

/// Cross entropy of logits [..., V] and integer targets [...], which must lie in 0..V: they are clipped to it.
#[track_caller]
pub fn cross_entropy(logits: &Array, targets: &Array) -> Array {
    if !targets.dtype().is_integer() {
        refuse("cross_entropy", format!("targets must be integers, not {}", targets.dtype()));
    }
    let targets = targets.maximum(0).minimum((logits.dim(-1) - 1).max(0));
    // SAFETY: valid handles; targets are in range
    ffi::op("cross_entropy", &[logits, &targets], |res, s| unsafe {
        sys::mlx_fast_cross_entropy(res, logits.raw, targets.raw, s)
    })
}
