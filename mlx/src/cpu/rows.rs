//! Norms and gated activations over rows.

use super::{View, is_current, op, takes};
use crate::{Array, plain};

/// x / rms(x) * weight over the last axis, if a kernel takes it.
pub(crate) fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Option<Array> {
    let fits = weight.is_none_or(|w| w.ndim() == 1 && w.dim(0) == x.dim(-1) && w.dtype() == x.dtype());
    if !takes(x.dtype()) || x.ndim() == 0 || x.size() == 0 || !fits || !is_current() {
        return None;
    }
    let inputs: smallvec::SmallVec<[&Array; 2]> = std::iter::once(x).chain(weight).collect();
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        let dim = i[0].shape().last().map_or(1, |&d| d as usize);
        let weight = i.get(1).map(View::floats).transpose()?;
        mlx_kernels::rms_norm(i[0].floats()?, dim, weight, eps, o[0].floats_mut()?).map_err(|e| e.to_string())
    };
    Some(op(c"rms_norm", &inputs, (x.shape(), x.dtype()), 0, kernel, move |a| plain::rms_norm(&a[0], a.get(1), eps)))
}

/// The activation of a gated product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Silu,
    GeluTanh,
}

impl Gate {
    pub(super) fn kernel(self) -> mlx_kernels::Gate {
        match self {
            Gate::Silu => mlx_kernels::Gate::Silu,
            Gate::GeluTanh => mlx_kernels::Gate::GeluTanh,
        }
    }
}

/// act(gate) * up, if a kernel takes it.
pub(crate) fn gated(act: Gate, gate: &Array, up: &Array) -> Option<Array> {
    if !takes(gate.dtype())
        || gate.dtype() != up.dtype()
        || gate.shape() != up.shape()
        || gate.ndim() == 0
        || !is_current()
    {
        return None;
    }
    let kind = act.kernel();
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        let cols = i[0].shape().last().map_or(1, |&d| d as usize);
        let rows = i[0].size() / cols.max(1);
        mlx_kernels::gated(kind, i[0].floats()?, i[1].floats()?, rows, cols, [cols, cols], o[0].floats_mut()?)
            .map_err(|e| e.to_string())
    };
    Some(op(c"gated", &[gate, up], (gate.shape(), gate.dtype()), 0, kernel, move |a| plain::gated(act, &a[0], &a[1])))
}
