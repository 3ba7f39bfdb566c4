//! Activation functions, and the same as layers for [`Sequential`](super::Sequential).

use super::Module;
use super::module::Param;
use crate::scalar::Operand;
use crate::{Array, where_};

/// 1 / (1 + e^-x).
#[track_caller]
pub fn sigmoid(x: &Array) -> Array {
    x.sigmoid()
}
/// max(x, 0).
#[track_caller]
pub fn relu(x: &Array) -> Array {
    x.maximum(0)
}
/// max(x, 0)^2.
#[track_caller]
pub fn relu2(x: &Array) -> Array {
    x.maximum(0).square()
}
/// min(max(x, 0), 6).
#[track_caller]
pub fn relu6(x: &Array) -> Array {
    x.maximum(0).minimum(6.0)
}
/// max(slope * x, x); Python's slope is 0.01.
#[track_caller]
pub fn leaky_relu(x: &Array, negative_slope: f64) -> Array {
    (x * negative_slope).maximum(x)
}
/// x - ln(sum(e^x)) along `axis`.
#[track_caller]
pub fn log_softmax(x: &Array, axis: i32) -> Array {
    // the largest is taken off first: added to a large maximum, the normaliser would be rounded away
    let x = x - x.max_keepdims(axis).stop_gradient();
    &x - x.logsumexp_keepdims(axis)
}
/// x where positive, else alpha * (e^x - 1).
#[track_caller]
pub fn elu(x: &Array, alpha: f64) -> Array {
    where_(x.gt(0), x, (x.exp() - 1) * alpha)
}
/// e^x over its sum along `axis`.
#[track_caller]
pub fn softmax(x: &Array, axis: i32) -> Array {
    x.softmax(axis)
}
/// ln(1 + e^x).
#[track_caller]
pub fn softplus(x: &Array) -> Array {
    x.logaddexp(0)
}
/// x / (1 + |x|).
#[track_caller]
pub fn softsign(x: &Array) -> Array {
    x / (1 + x.abs())
}
/// x moved by `lambd` toward zero, zero within it; Python's is 0.5.
#[track_caller]
pub fn softshrink(x: &Array, lambd: f64) -> Array {
    where_(x.abs().gt(lambd), x - x.sign() * lambd, 0)
}
/// max(0, x) + alpha * (e^(min(0, x) / alpha) - 1).
#[track_caller]
pub fn celu(x: &Array, alpha: f64) -> Array {
    x.maximum(0.0) + ((x.minimum(0.0) / alpha).exp() - 1) * alpha
}
/// x * sigmoid(x).
#[track_caller]
pub fn silu(x: &Array) -> Array {
    x * x.sigmoid()
}
/// ln(sigmoid(x)).
#[track_caller]
pub fn log_sigmoid(x: &Array) -> Array {
    -softplus(&-x)
}
/// x times the normal distribution function of x.
#[track_caller]
pub fn gelu(x: &Array) -> Array {
    x * (1 + (x / std::f64::consts::SQRT_2).erf()) / 2
}
/// [`gelu`] by tanh.
#[track_caller]
pub fn gelu_approx(x: &Array) -> Array {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    x * 0.5 * (1 + ((x + x.pow(3) * 0.044715) * c).tanh())
}
/// x * sigmoid(1.702 x).
#[track_caller]
pub fn gelu_fast_approx(x: &Array) -> Array {
    x * (x * 1.702).sigmoid()
}
/// a * sigmoid(b) of the two halves of `axis`.
#[track_caller]
pub fn glu(x: &Array, axis: i32) -> Array {
    let halves = x.split(2, axis);
    &halves[0] * halves[1].sigmoid()
}
/// 1 where x reaches the threshold, else 0 (int32).
#[track_caller]
pub fn step(x: &Array, threshold: f64) -> Array {
    where_(x.ge(threshold), 1, 0)
}
/// The self-normalising [`elu`].
#[track_caller]
pub fn selu(x: &Array) -> Array {
    elu(x, 1.67326) * 1.0507
}
/// max(0, x) + alpha * min(0, x).
#[track_caller]
pub fn prelu(x: &Array, alpha: impl Operand) -> Array {
    x.maximum(0) + crate::multiply(alpha, x.minimum(0))
}
/// x * tanh(softplus(x)).
#[track_caller]
pub fn mish(x: &Array) -> Array {
    x * softplus(x).tanh()
}
/// x * min(max(x + 3, 0), 6) / 6.
#[track_caller]
pub fn hardswish(x: &Array) -> Array {
    x * (x + 3).maximum(0).minimum(6) / 6
}
/// x between two limits; Python's are -1 and 1.
#[track_caller]
pub fn hard_tanh(x: &Array, min_val: f64, max_val: f64) -> Array {
    x.maximum(min_val).minimum(max_val)
}
/// x outside of +-lambd, else 0; Python's is 0.5.
#[track_caller]
pub fn hard_shrink(x: &Array, lambd: f64) -> Array {
    where_(x.abs().gt(lambd), x, 0)
}
/// Softmax of -x.
#[track_caller]
pub fn softmin(x: &Array, axis: i32) -> Array {
    (-x).softmax(axis)
}
/// Hyperbolic tangent.
#[track_caller]
pub fn tanh(x: &Array) -> Array {
    x.tanh()
}
/// silu(gate) * x: the gate of most language models.
#[track_caller]
pub fn swiglu(gate: &Array, x: &Array) -> Array {
    silu(gate) * x
}

macro_rules! layers {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $t:ty = $default:expr),* } |$self:ident, $x:ident| $body:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Module)]
        pub struct $name { $(pub $field: $t),* }
        impl Default for $name {
            fn default() -> Self { $name { $($field: $default),* } }
        }
        impl super::Layer for $name {
            fn forward(&$self, $x: &Array) -> Array { $body }
        }
    )* };
}

layers! {
    /// [`sigmoid`] as a layer.
    Sigmoid {} |self, x| sigmoid(x);
    /// [`mish`] as a layer.
    Mish {} |self, x| mish(x);
    /// [`relu`] as a layer.
    ReLU {} |self, x| relu(x);
    /// [`relu2`] as a layer.
    ReLU2 {} |self, x| relu2(x);
    /// [`relu6`] as a layer.
    ReLU6 {} |self, x| relu6(x);
    /// [`leaky_relu`] as a layer.
    LeakyReLU { negative_slope: f64 = 0.01 } |self, x| leaky_relu(x, self.negative_slope);
    /// [`elu`] as a layer.
    ELU { alpha: f64 = 1.0 } |self, x| elu(x, self.alpha);
    /// [`softmax`] over the last axis as a layer.
    Softmax {} |self, x| softmax(x, -1);
    /// [`softplus`] as a layer.
    Softplus {} |self, x| softplus(x);
    /// [`softsign`] as a layer.
    Softsign {} |self, x| softsign(x);
    /// [`softshrink`] as a layer.
    Softshrink { lambd: f64 = 0.5 } |self, x| softshrink(x, self.lambd);
    /// [`celu`] as a layer.
    CELU { alpha: f64 = 1.0 } |self, x| celu(x, self.alpha);
    /// [`silu`] as a layer.
    SiLU {} |self, x| silu(x);
    /// [`log_softmax`] over the last axis as a layer.
    LogSoftmax {} |self, x| log_softmax(x, -1);
    /// [`log_sigmoid`] as a layer.
    LogSigmoid {} |self, x| log_sigmoid(x);
    /// [`tanh`] as a layer.
    Tanh {} |self, x| tanh(x);
    /// [`hardswish`] as a layer.
    Hardswish {} |self, x| hardswish(x);
    /// [`step`] as a layer.
    Step { threshold: f64 = 0.0 } |self, x| step(x, self.threshold);
    /// [`selu`] as a layer.
    SELU {} |self, x| selu(x);
    /// [`hard_tanh`] between -1 and 1 as a layer.
    HardTanh {} |self, x| hard_tanh(x, -1.0, 1.0);
    /// [`hard_shrink`] as a layer.
    HardShrink { lambd: f64 = 0.5 } |self, x| hard_shrink(x, self.lambd);
    /// [`softmin`] over the last axis as a layer.
    Softmin {} |self, x| softmin(x, -1);
    /// [`glu`] as a layer.
    GLU { axis: i32 = -1 } |self, x| glu(x, self.axis);
    /// [`gelu`], [`gelu_approx`] or [`gelu_fast_approx`] as a layer.
    GELU { approx: GeluApprox = GeluApprox::None } |self, x| match self.approx {
        GeluApprox::None => gelu(x),
        GeluApprox::Precise => gelu_approx(x),
        GeluApprox::Fast => gelu_fast_approx(x),
    };
    /// Its input.
    Identity {} |self, x| x.clone();
}

/// Which formula [`GELU`] uses: Python's `"none"`, `"precise"` (or `"tanh"`), `"fast"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Module)]
pub enum GeluApprox {
    #[default]
    None,
    Precise,
    Fast,
}

/// [`prelu`] with trained slopes (`nn.PReLU`).
#[derive(Debug, Clone, Module)]
pub struct PReLU {
    pub weight: Param,
}

impl PReLU {
    /// `count` slopes that start at `init` (Python: 1 and 0.25).
    #[track_caller]
    pub fn init(count: i32, init: f64) -> Self {
        PReLU { weight: crate::full([count], init, None).into() }
    }
}

impl super::Layer for PReLU {
    fn forward(&self, x: &Array) -> Array {
        prelu(x, self.weight.value())
    }
}
