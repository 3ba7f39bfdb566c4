//! Activations by name.

use crate::blueprint::{Activation, Clip};
use mlx::{self as mx, Array, Dtype, nn};

/// Applies an activation element-wise.
pub fn apply(activation: Activation, x: &Array) -> Array {
    match activation {
        Activation::Silu => nn::silu(x),
        Activation::Gelu => nn::gelu(x),
        Activation::GeluTanh => nn::gelu_approx(x),
        Activation::GeluFast => nn::gelu_fast_approx(x),
        Activation::Relu => nn::relu(x),
        Activation::Relu2 => nn::relu2(x),
        Activation::SparseGelu(quantile) => {
            let deviations = Array::scalar(2.0 * quantile as f64 - 1.0, Dtype::Float32).erfinv() * 2f32.sqrt();
            let mean = x.mean_keepdims(-1);
            let std = (x - &mean).square().mean_keepdims(-1).sqrt();
            let cutoff = mean + &std * deviations.astype(std.dtype());
            apply(Activation::GeluTanh, &mx::maximum(x - cutoff, 0.0))
        }
        Activation::Sigmoid => x.sigmoid(),
        Activation::LogSigmoid => nn::log_sigmoid(x),
        Activation::EluPlusOne => nn::elu(x, 1.0) + 1.0,
        Activation::Tanh => x.tanh(),
        Activation::Situ { beta, .. } => {
            let f = x.astype(Dtype::Float32);
            (soft_limit(&f, beta) * f.sigmoid()).astype(x.dtype())
        }
    }
}

/// The activation as fused ops name it, if they have it.
pub fn gate(activation: Activation) -> Option<mx::fast::Gate> {
    match activation {
        Activation::Silu => Some(mx::fast::Gate::Silu),
        Activation::GeluTanh => Some(mx::fast::Gate::GeluTanh),
        _ => None,
    }
}

/// x for small x, within +- limit.
fn soft_limit(x: &Array, limit: f32) -> Array {
    (x / limit).tanh() * limit
}

/// act(gate) * up, in one kernel where there is one.
pub fn gated(activation: Activation, gate_half: &Array, up: &Array) -> Array {
    if let Activation::Situ { linear: Some(limit), .. } = activation {
        let f = |a: &Array| a.astype(Dtype::Float32);
        return (apply(activation, &f(gate_half)) * soft_limit(&f(up), limit)).astype(up.dtype());
    }
    match gate(activation) {
        Some(g) => mx::fast::gated(g, gate_half, up),
        None => apply(activation, gate_half) * up,
    }
}

/// act(gate) * up, both within a limit.
pub fn clipped(activation: Activation, gate: &Array, up: &Array, clip: Clip) -> Array {
    let within = |limit: f32| mx::clip(up, Some(-limit), Some(limit));
    match clip {
        Clip::Activated(limit) => mx::minimum(apply(activation, gate), limit) * within(limit),
        Clip::Gate(limit) => gated(activation, &mx::minimum(gate, limit), &within(limit)),
        Clip::Oai { alpha, limit } => {
            let gate = mx::minimum(gate, limit);
            &gate * (&gate * alpha).sigmoid() * (within(limit) + 1.0)
        }
    }
}
