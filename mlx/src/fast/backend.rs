//! Whose fused kernels the current stream has.

use super::cuda::{self, Gpu};
use crate::{Array, Dtype, cpu};
use mlx_sys as sys;

/// The kernels of the current stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kernels {
    Cuda(&'static Gpu),
    Cpu,
}

/// `None` on a device that has only MLX's own.
pub(super) fn kernels() -> Option<Kernels> {
    match cuda::current_gpu() {
        Some(gpu) => Some(Kernels::Cuda(gpu)),
        None => cpu::is_current().then_some(Kernels::Cpu),
    }
}

impl Kernels {
    /// Whether they compute with x of this type.
    pub fn takes(self, x: Dtype) -> bool {
        match self {
            Kernels::Cuda(_) => cuda::is_half(x),
            Kernels::Cpu => cpu::takes(x),
        }
    }
    /// Whether an operand of another type may meet x, with a result of the type of x as the plain form has.
    pub fn takes_with(self, x: Dtype, operand: Dtype) -> bool {
        match self {
            Kernels::Cuda(_) => operand == x,
            Kernels::Cpu => cpu::takes_with(x, operand),
        }
    }
}

/// Whether [`linear`](super::linear) and the decode step run as single kernels here: ops of this thread go to a device that
/// has them.
pub fn is_fused() -> bool {
    kernels().is_some()
}

/// Whether layers of experts, latent attention and recurrences have fused steps here: on CUDA.
pub fn has_layer_kernels() -> bool {
    cuda::current_gpu().is_some()
}

/// Whether a transform watches this array: these kernels have no derivative, so the plain form must run.
pub(super) fn is_traced(a: &Array) -> bool {
    let mut traced = false;
    // SAFETY: valid handle and out-pointer
    unsafe { sys::mlxs_array_is_tracer(&mut traced, a.as_raw()) };
    traced
}
