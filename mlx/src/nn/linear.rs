//! The one linear layer: dense, quantised, with or without an adapter.

use super::adapter::{Adapter, row_norms};
use super::module::{LayerMut, Module, Param, Path};
use super::rotation::Rotation;
use super::weight::Weight;
use crate::error::refuse;
use crate::fast::{self, Fused, LowRank, Matrix};
use crate::{Array, Dtype, Quant, addmm, random};

/// y = x W.T + b (`nn.Linear`, `nn.QuantizedLinear`, mlx-lm's `LoRALinear` and `DoRALinear`).
///
/// Parameters: `weight` [out, in], of a quantised layer packed with `scales` and `biases`; `bias` `[out]`;
/// of an adapter `lora_a` [in, r], `lora_b` [r, out], `m` `[out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Param>,
    adapter: Option<Adapter>,
}

impl Linear {
    /// A dense layer from its weight [out, in] and bias `[out]`.
    pub fn new(weight: Array, bias: Option<Array>) -> Self {
        Linear { weight: Weight::dense(weight), bias: bias.map(Param::new), adapter: None }
    }

    /// A new layer, uniform within 1 / sqrt(input), as `nn.Linear(input, output, bias)`.
    #[track_caller]
    pub fn init(input: i32, output: i32, bias: bool) -> Self {
        let scale = 1.0 / f64::from(input).sqrt();
        let uniform = |shape: &[i32]| random::uniform(-scale, scale, shape, Dtype::Float32, None);
        let weight = uniform(&[output, input]);
        Linear::new(weight, bias.then(|| uniform(&[output])))
    }

    /// A new quantised layer with a bias of zeros, as `nn.QuantizedLinear(input, output, bias)`.
    #[track_caller]
    pub fn init_quantized(input: i32, output: i32, bias: bool, quant: Quant) -> Self {
        let mut layer = Linear::init(input, output, false);
        layer.quantize(quant);
        layer.bias = bias.then(|| Param::frozen(crate::zeros([output], Dtype::Float32)));
        layer
    }

    /// A quantised layer from its packed weight; nothing of it but the bias is trained.
    pub fn quantized(weight: Array, scales: Array, biases: Option<Array>, quant: Quant, bias: Option<Array>) -> Self {
        Linear { weight: Weight::quantized(weight, scales, biases, quant), bias: bias.map(Param::new), adapter: None }
    }

    /// A layer whose weight is codes [out, in / d] that stand for the vectors of a book [entries, d].
    #[track_caller]
    pub fn codebook(codes: Array, book: Array, bias: Option<Array>) -> Self {
        Linear { weight: Weight::codes(codes, book), bias: bias.map(Param::new), adapter: None }
    }

    /// x: [..., in] -> [..., out]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        match &self.adapter {
            None => self.base(x),
            Some(a) if a.m.is_some() => self.dora(a, x),
            Some(a) => match adapted(x, &[self]) {
                Some(mut y) => y.swap_remove(0),
                None => self.base(x) + a.delta(x, x),
            },
        }
    }

    /// Products of x with each layer, as [`forward`](Self::forward) of one after the other: layers with adapters of one
    /// rank are computed, and differentiated, together.
    #[track_caller]
    pub fn forward_all<const N: usize>(layers: [&Linear; N], x: &Array) -> [Array; N] {
        let together = adapted(x, &layers).and_then(|y| y.try_into().ok());
        together.unwrap_or_else(|| layers.map(|l| l.forward(x)))
    }

    #[track_caller]
    fn base(&self, x: &Array) -> Array {
        match (&self.bias, &self.weight.packed) {
            (Some(b), None) if self.weight.matrix().is_none() => self.weight.matmul(x) + b.value(),
            // in one op where it is float32's BLAS or a GPU
            (Some(b), None) if x.dtype().size() > 2 || !crate::stream::is_cpu() => {
                addmm(b, x, &self.weight.weight.t(), 1.0, 1.0)
            }
            (Some(b), _) => match self.weight.matrix() {
                Some(m) => fast::linear(x, &[m.with_bias(Some(b))], Fused::default()),
                None => self.weight.matmul(x) + b.value(),
            },
            (None, _) => self.weight.matmul(x),
        }
    }

    #[track_caller]
    fn dora(&self, a: &Adapter, x: &Array) -> Array {
        let w = self.weight.to_dense();
        let out = x.matmul(&w.t()) + a.delta(x, x);
        let adapted = &w + (a.lora_b.t() * a.scale).matmul(&a.lora_a.t());
        let out = match &a.m {
            Some(m) => (m.value() / row_norms(&adapted).stop_gradient()).astype(x.dtype()) * out,
            None => out,
        };
        match &self.bias {
            Some(b) => out + b.value(),
            None => out,
        }
    }

    /// The layer as the ops of `fast` take it; `None` with an adapter, a codebook, a rotation, an order or a
    /// global scale, which they do not know.
    pub fn matrix(&self) -> Option<Matrix<'_>> {
        self.weight.matrix().filter(|_| self.adapter.is_none()).map(|m| m.with_bias(self.bias.as_deref()))
    }

    /// Says that the weight is stored in a rotated basis.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.weight.rotation = Some(rotation.into());
    }

    /// Says that stored column j takes input `order[j]` (uint32 `[in]`).
    pub fn set_order(&mut self, order: Array) {
        self.weight.order = Some(Param::sealed(order).into());
    }

    /// A float32 factor on the product, [] or `[out]`; in nvfp4 the largest number it holds (MLX's `global_scale`).
    pub fn set_global_scale(&mut self, scale: Array) {
        self.weight.global_scale = Some(Param::sealed(scale).into());
    }

    /// x W.T alone.
    #[track_caller]
    pub(super) fn forward_without_bias(&self, x: &Array) -> Array {
        self.weight.matmul(x)
    }

    pub fn in_features(&self) -> i32 {
        self.weight.inputs()
    }
    pub fn out_features(&self) -> i32 {
        self.weight.weight.dim(-2)
    }
    /// The weight as stored: dense [out, in], or packed words.
    pub fn weight(&self) -> &Array {
        &self.weight.weight
    }
    pub fn weight_mut(&mut self) -> &mut Param {
        &mut self.weight.weight
    }
    pub fn scales(&self) -> Option<&Array> {
        self.weight.packed.as_ref().map(|p| p.scales.value())
    }
    /// The offsets of an affine quantised weight; not the layer's [`bias`](Self::bias).
    pub fn biases(&self) -> Option<&Array> {
        self.weight.packed.as_ref().and_then(|p| p.biases.as_deref())
    }
    pub fn bias(&self) -> Option<&Array> {
        self.bias.as_deref()
    }
    /// How the weight is quantised; `None` if it is dense.
    pub fn quant(&self) -> Option<Quant> {
        self.weight.quant()
    }
    /// The dense weight, without the adapter.
    #[track_caller]
    pub fn dense_weight(&self) -> Array {
        self.weight.to_dense()
    }

    /// As [`dense_weight`](Self::dense_weight), a quantised one in this type.
    #[track_caller]
    pub fn dense_weight_in(&self, dtype: Dtype) -> Array {
        self.weight.to_dense_in(Some(dtype))
    }

    /// Packs the weight (`to_quantized`).
    #[track_caller]
    pub fn quantize(&mut self, quant: Quant) {
        self.weight.quantize(quant);
    }

    /// Makes the weight dense.
    #[track_caller]
    pub fn dequantize(&mut self) {
        self.weight.dequantize();
    }

    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Sets or removes the adapter; panics if its shapes are not those of this layer.
    #[track_caller]
    pub fn set_adapter(&mut self, adapter: Option<Adapter>) {
        if let Some(a) = &adapter {
            let (i, o) = (self.in_features(), self.out_features());
            let fits = matches!((a.lora_a.shape(), a.lora_b.shape()),
                (&[x, r], &[s, y]) if (x, y) == (i, o) && r == s)
                && a.m.as_ref().is_none_or(|m| m.shape() == [o]);
            if !fits {
                let (a, b) = (a.lora_a.shape(), a.lora_b.shape());
                refuse("set_adapter", format!("lora_a {a:?}, lora_b {b:?} do not fit a layer {i} -> {o}"));
            }
        }
        self.adapter = adapter;
    }

    /// A fresh LoRA adapter of this layer (`LoRALinear.from_base`): a uniform within 1 / sqrt(in), b zero.
    #[track_caller]
    pub fn add_lora(&mut self, rank: i32, scale: f32, dropout: f32) {
        let (i, o) = (self.in_features(), self.out_features());
        let bound = 1.0 / f64::from(i).sqrt();
        let a = random::uniform(-bound, bound, [i, rank], Dtype::Float32, None);
        self.set_adapter(Some(Adapter::lora(a, crate::zeros([rank, o], Dtype::Float32), scale, dropout)));
    }

    /// A fresh DoRA adapter (`DoRALinear.from_base`): as LoRA, magnitudes are the norms of the weight's rows.
    #[track_caller]
    pub fn add_dora(&mut self, rank: i32, scale: f32, dropout: f32) {
        self.add_lora(rank, scale, dropout);
        let m = row_norms(&self.weight.to_dense().astype(Dtype::Float32));
        if let Some(a) = &mut self.adapter {
            a.m = Some(m.into());
        }
    }

    /// Adds the adapter into the weight and drops it; a quantised weight stays so unless `dequantize`.
    #[track_caller]
    pub fn fuse(&mut self, dequantize: bool) {
        let Some(a) = self.adapter.take() else { return };
        let (w, quant) = (self.weight.to_dense(), self.quant());
        let delta = (a.lora_b.t() * a.scale).matmul(&a.lora_a.t()).astype(w.dtype());
        let mut w = w + delta;
        if let Some(m) = &a.m {
            w = (m.value() / row_norms(&w)).expand_dims(-1) * w;
        }
        self.weight = Weight::dense(w);
        if let (Some(q), false) = (quant, dequantize) {
            self.weight.quantize(q);
        }
    }
}

/// Layers that all have LoRA of one rank, scale and no dropout, over weights that `fast` takes and nobody differentiates.
#[track_caller]
fn adapted(x: &Array, layers: &[&Linear]) -> Option<Vec<Array>> {
    let first = layers.first()?.adapter.as_ref()?;
    let fits = |a: &&Adapter| a.m.is_none() && !a.drops() && a.scale == first.scale;
    let mut parts = Vec::with_capacity(layers.len());
    for l in layers {
        let a = l.adapter.as_ref().filter(fits)?;
        parts.push(LowRank { weight: l.weight.matrix()?, a: &a.lora_a, b: &a.lora_b });
    }
    let y = fast::low_rank_linear(x, &parts, first.scale)?;
    let with_bias = |(y, l): (Array, &&Linear)| l.bias.as_ref().map_or(y.clone(), |b| y + b.value());
    Some(y.into_iter().zip(layers).map(with_bias).collect())
}

impl Module for Linear {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        self.weight.visit(path, f);
        if let Some(b) = &self.bias {
            path.enter("bias", |p| f(p.as_str(), b));
        }
        if let Some(a) = &self.adapter {
            a.visit(path, f);
        }
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        self.weight.visit_mut(path, f);
        if let Some(b) = &mut self.bias {
            path.enter("bias", |p| f(p.as_str(), b));
        }
        if let Some(a) = &mut self.adapter {
            a.visit_mut(path, f);
        }
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        f(path.as_str(), LayerMut::Linear(self));
    }
    fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
        f(path.as_str());
    }
    fn set_training(&mut self, on: bool) {
        if let Some(a) = &mut self.adapter {
            a.set_training(on);
        }
    }
}
