//! Normalisation layers.

use super::Module;
use super::module::Param;
use crate::{Array, Dtype, fast};

/// x / rms(x) * weight over the last axis (`nn.RMSNorm`).
#[derive(Debug, Clone, Module)]
pub struct RmsNorm {
    pub weight: Option<Param>,
    pub eps: f32,
}

impl RmsNorm {
    pub fn new(weight: Option<Array>, eps: f32) -> Self {
        RmsNorm { weight: weight.map(Param::new), eps }
    }
    /// A new layer with weight one.
    #[track_caller]
    pub fn init(dims: i32, eps: f32) -> Self {
        RmsNorm::new(Some(crate::ones([dims], Dtype::Float32)), eps)
    }
    /// x: [..., D] -> [..., D]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        fast::rms_norm(x, self.weight.as_deref(), self.eps)
    }
}

/// (x - mean) / std * weight + bias over the last axis (`nn.LayerNorm`).
#[derive(Debug, Clone, Module)]
pub struct LayerNorm {
    pub weight: Option<Param>,
    pub bias: Option<Param>,
    pub eps: f32,
}

impl LayerNorm {
    pub fn new(weight: Option<Array>, bias: Option<Array>, eps: f32) -> Self {
        LayerNorm { weight: weight.map(Param::new), bias: bias.map(Param::new), eps }
    }
    /// A new layer with weight one and bias zero, or without one or both.
    #[track_caller]
    pub fn init(dims: i32, eps: f32, affine: bool, bias: bool) -> Self {
        let weight = affine.then(|| crate::ones([dims], Dtype::Float32));
        let bias = (affine && bias).then(|| crate::zeros([dims], Dtype::Float32));
        LayerNorm::new(weight, bias, eps)
    }
    /// x: [..., D] -> [..., D]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        fast::layer_norm(x, self.weight.as_deref(), self.bias.as_deref(), self.eps)
    }
}
