//! Linear layers of many experts, of which each token uses a few (mlx-lm's `SwitchLinear`).

use super::adapter::Adapter;
use super::module::{LayerMut, Module, Param, Path};
use super::rotation::Rotation;
use super::weight::Weight;
use crate::error::refuse;
use crate::fast::Matrix;
use crate::{Array, Dtype, Quant, random};

/// y = x W`[e]`.T + b`[e]` for chosen experts e (`SwitchLinear`, `QuantizedSwitchLinear`, `LoRASwitchLinear`).
///
/// Parameters: `weight` [E, out, in], packed with `scales` and `biases` when quantised; `bias` [E, out];
/// of an adapter `lora_a` [E, r, in], `lora_b` [E, out, r].
#[derive(Debug, Clone)]
pub struct SwitchLinear {
    weight: Weight,
    bias: Option<Param>,
    adapter: Option<Adapter>,
}

impl SwitchLinear {
    /// Dense experts from weight [E, out, in] and bias [E, out].
    pub fn new(weight: Array, bias: Option<Array>) -> Self {
        SwitchLinear { weight: Weight::dense(weight), bias: bias.map(Param::new), adapter: None }
    }

    /// New experts, uniform within 1 / sqrt(input), bias zero.
    #[track_caller]
    pub fn init(input: i32, output: i32, experts: i32, bias: bool) -> Self {
        let scale = (1.0 / f64::from(input)).sqrt();
        let weight = random::uniform(-scale, scale, [experts, output, input], Dtype::Float32, None);
        SwitchLinear::new(weight, bias.then(|| crate::zeros([experts, output], Dtype::Float32)))
    }

    /// Quantised experts from their packed weight.
    pub fn quantized(weight: Array, scales: Array, biases: Option<Array>, quant: Quant, bias: Option<Array>) -> Self {
        SwitchLinear {
            weight: Weight::quantized(weight, scales, biases, quant),
            bias: bias.map(Param::new),
            adapter: None,
        }
    }

    /// Experts of codes [E, out, in / d] that stand for the vectors of a book each, [E, entries, d].
    #[track_caller]
    pub fn codebook(codes: Array, book: Array, bias: Option<Array>) -> Self {
        SwitchLinear { weight: Weight::codes(codes, book), bias: bias.map(Param::new), adapter: None }
    }

    /// Says that the weights are stored in a rotated basis, the same for all experts.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.weight.rotation = Some(rotation.into());
    }

    /// A float32 factor on the product, `[E]` or [E, out]; in nvfp4 the largest number it holds (MLX's `global_scale`).
    pub fn set_global_scale(&mut self, scale: Array) {
        self.weight.global_scale = Some(Param::sealed(scale).into());
    }
    pub fn global_scale(&self) -> Option<&Array> {
        self.weight.global_scale.as_ref().map(|p| p.value())
    }

    /// x: [..., 1 or k, 1, in], indices: [..., k] -> [..., k, 1, out]; `sorted` says that the indices ascend.
    #[track_caller]
    pub fn forward(&self, x: &Array, indices: &Array, sorted: bool) -> Array {
        let y = self.weight.matmul_experts(x, indices, self.bias.as_deref(), sorted);
        match &self.adapter {
            None => y,
            Some(a) => {
                let z = crate::fast::gather_linear(&a.drop_some(x), &a.lora_a, indices, sorted);
                let z = crate::fast::gather_linear(&z, &a.lora_b, indices, sorted);
                y + (z * a.scale).astype(x.dtype())
            }
        }
    }

    /// The experts as the ops of `fast` take them; `None` with an adapter, codes or a global scale, which they do not know.
    pub fn matrix(&self) -> Option<Matrix<'_>> {
        self.weight.matrix().filter(|_| self.adapter.is_none()).map(|m| m.with_bias(self.bias.as_deref()))
    }

    pub fn in_features(&self) -> i32 {
        self.weight.inputs()
    }
    pub fn out_features(&self) -> i32 {
        self.weight.weight.dim(-2)
    }
    pub fn num_experts(&self) -> i32 {
        self.weight.weight.dim(0)
    }
    /// The weight as stored: dense [E, out, in], or packed words.
    pub fn weight(&self) -> &Array {
        &self.weight.weight
    }
    pub fn weight_mut(&mut self) -> &mut Param {
        &mut self.weight.weight
    }
    pub fn scales(&self) -> Option<&Array> {
        self.weight.packed.as_ref().map(|p| p.scales.value())
    }
    pub fn biases(&self) -> Option<&Array> {
        self.weight.packed.as_ref().and_then(|p| p.biases.as_deref())
    }
    pub fn bias(&self) -> Option<&Array> {
        self.bias.as_deref()
    }
    pub fn quant(&self) -> Option<Quant> {
        self.weight.quant()
    }
    /// The dense weight, without the adapter.
    #[track_caller]
    pub fn dense_weight(&self) -> Array {
        self.weight.to_dense()
    }
    /// Packs the weights (`to_quantized`).
    #[track_caller]
    pub fn quantize(&mut self, quant: Quant) {
        self.weight.quantize(quant);
    }
    /// Makes the weights dense.
    #[track_caller]
    pub fn dequantize(&mut self) {
        self.weight.dequantize();
    }

    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Sets or removes the adapter; panics if its shapes are not those of these experts. There is no DoRA here.
    #[track_caller]
    pub fn set_adapter(&mut self, adapter: Option<Adapter>) {
        if let Some(a) = &adapter {
            let (e, i, o) = (self.num_experts(), self.in_features(), self.out_features());
            let fits = matches!((a.lora_a.shape(), a.lora_b.shape()),
                (&[x, r, n], &[y, m, s]) if (x, y, n, m) == (e, e, i, o) && r == s)
                && a.m.is_none();
            if !fits {
                let (a, b) = (a.lora_a.shape(), a.lora_b.shape());
                refuse("set_adapter", format!("lora_a {a:?}, lora_b {b:?} do not fit {e} experts {i} -> {o}"));
            }
        }
        self.adapter = adapter;
    }

    /// A fresh LoRA adapter (`LoRASwitchLinear.from_base`).
    #[track_caller]
    pub fn add_lora(&mut self, rank: i32, scale: f32, dropout: f32) {
        let (e, i, o) = (self.num_experts(), self.in_features(), self.out_features());
        let bound = 1.0 / f64::from(i).sqrt();
        let a = random::uniform(-bound, bound, [e, rank, i], Dtype::Float32, None);
        self.set_adapter(Some(Adapter::lora(a, crate::zeros([e, o, rank], Dtype::Float32), scale, dropout)));
    }

    /// Adds the adapter into the weights and drops it; quantised weights stay so unless `dequantize`.
    #[track_caller]
    pub fn fuse(&mut self, dequantize: bool) {
        let Some(a) = self.adapter.take() else { return };
        let (w, quant) = (self.weight.to_dense(), self.quant());
        let delta = (a.lora_b.value() * a.scale).matmul(&a.lora_a).astype(w.dtype());
        self.weight = Weight::dense(w + delta);
        if let (Some(q), false) = (quant, dequantize) {
            self.weight.quantize(q);
        }
    }
}

impl Module for SwitchLinear {
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
        f(path.as_str(), LayerMut::SwitchLinear(self));
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
