//! Activations by name.

use crate::blueprint::Activation;
use mlx::{self as mx, Array};

/// Applies an activation element-wise.
pub fn apply(activation: Activation, x: &Array) -> Array {
    match activation {
        Activation::Silu => x * x.sigmoid(),
        Activation::Gelu => x * (1.0 + (x / std::f32::consts::SQRT_2).erf()) / 2.0,
        Activation::GeluTanh => {
            let inner = (2.0f32 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x.pow(3));
            0.5 * (x * (1.0 + inner.tanh()))
        }
        Activation::GeluFast => x * (1.702 * x).sigmoid(),
        Activation::Relu => mx::maximum(x, 0.0),
        Activation::Relu2 => mx::maximum(x, 0.0).square(),
        Activation::Sigmoid => x.sigmoid(),
        Activation::Tanh => x.tanh(),
    }
}

/// act(gate) * up, in one kernel where there is one.
pub fn gated(activation: Activation, gate: &Array, up: &Array) -> Array {
    match activation {
        Activation::Silu => mx::fast::gated(mx::fast::Gate::Silu, gate, up),
        Activation::GeluTanh => mx::fast::gated(mx::fast::Gate::GeluTanh, gate, up),
        other => apply(other, gate) * up,
    }
}
