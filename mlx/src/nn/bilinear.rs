//! Linear layers beside [`Linear`](super::Linear): of two inputs, and with quantised activations.

use super::Module;
use super::module::{Param, Path};
use crate::error::refuse;
use crate::{Array, Dtype, Qq, Quant, qqmm, random};

/// y_o = x1 W_o x2 + b_o (`nn.Bilinear`): weight [out, in2, in1].
#[derive(Debug, Clone, Module)]
pub struct Bilinear {
    pub weight: Param,
    pub bias: Option<Param>,
}

impl Bilinear {
    /// A new layer, uniform within 1 / sqrt(input1).
    #[track_caller]
    pub fn init(input1: i32, input2: i32, output: i32, bias: bool) -> Self {
        let scale = (1.0 / f64::from(input1)).sqrt();
        let uniform = |shape: &[i32]| Param::new(random::uniform(-scale, scale, shape, Dtype::Float32, None));
        Bilinear { weight: uniform(&[output, input2, input1]), bias: bias.then(|| uniform(&[output])) }
    }

    /// x1: [..., in1], x2: [..., in2] -> [..., out]
    #[track_caller]
    pub fn forward(&self, x1: &Array, x2: &Array) -> Array {
        let [out, in2, in1] = self.weight.dims();
        let mut shape = x1.shape()[..x1.ndim().saturating_sub(1)].to_vec();
        shape.push(out);
        let w = self.weight.reshape([out * in2, in1]);
        let y = x1.reshape([-1, in1]).matmul(&w.t()).reshape([-1, out, in2]).swapaxes(-2, -1);
        let y = x2.reshape([-1, 1, in2]).matmul(&y).squeeze(1).reshape(shape);
        match &self.bias {
            Some(b) => y + b.value(),
            None => y,
        }
    }
}

/// A linear layer that quantises its input as well (`nn.QQLinear`): dense while training, packed for inference.
#[derive(Debug, Clone)]
pub struct QQLinear {
    weight: Param,
    scales: Option<Param>,
    quant: Quant,
}

impl QQLinear {
    /// From a dense weight [out, in]; it is packed by `eval` and dense again by `train`.
    pub fn new(weight: Array, quant: Quant) -> Self {
        QQLinear { weight: weight.into(), scales: None, quant }
    }

    /// A new layer, uniform within 1 / sqrt(input); Python's mode is nvfp4.
    #[track_caller]
    pub fn init(input: i32, output: i32, quant: Quant) -> Self {
        let scale = (1.0 / f64::from(input)).sqrt();
        QQLinear::new(random::uniform(-scale, scale, [output, input], Dtype::Float32, None), quant)
    }

    /// x: [..., in] -> [..., out]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        qqmm(x, &self.weight, Qq { scales: self.scales.as_deref(), ..Qq::default() }, self.quant)
    }

    pub fn weight(&self) -> &Array {
        &self.weight
    }
    pub fn quant(&self) -> Quant {
        self.quant
    }

    /// Packs the weight; nothing happens if it is packed.
    #[track_caller]
    pub fn quantize(&mut self) {
        if self.scales.is_none() {
            let (w, scales, biases) = crate::quantize(&self.weight, self.quant);
            if biases.is_some() {
                refuse("QQLinear", "affine quantisation is not supported");
            }
            self.weight.set(w);
            self.scales = Some(Param::new(scales));
        }
    }

    /// Makes the weight dense.
    #[track_caller]
    pub fn dequantize(&mut self) {
        if let Some(scales) = self.scales.take() {
            let w = crate::dequantize(&self.weight, &scales, None, self.quant, None);
            self.weight.set(w);
        }
    }
}

impl Module for QQLinear {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        path.enter("weight", |p| f(p.as_str(), &self.weight));
        if let Some(s) = &self.scales {
            path.enter("scales", |p| f(p.as_str(), s));
        }
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        path.enter("weight", |p| f(p.as_str(), &mut self.weight));
        if let Some(s) = &mut self.scales {
            path.enter("scales", |p| f(p.as_str(), s));
        }
    }
    fn set_training(&mut self, on: bool) {
        if on { self.dequantize() } else { self.quantize() }
    }
    fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
        f(path.as_str());
    }
}
