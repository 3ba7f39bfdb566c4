//! Lookup tables: dense, quantised, with or without an adapter.

use super::adapter::{Adapter, row_norms};
use super::module::{LayerMut, Module, Param, Path};
use super::rotation::Rotation;
use super::weight::Weight;
use crate::error::refuse;
use crate::fast::Matrix;
use crate::{Array, Dtype, Quant, random};

/// Rows of a table (`nn.Embedding`, `nn.QuantizedEmbedding`, mlx-lm's `LoRAEmbedding` and `DoRAEmbedding`).
///
/// Parameters: `weight` [V, D], of a quantised table packed with `scales` and `biases`; of an adapter
/// `lora_a` [V, r], `lora_b` [r, D], `m` `[V]`.
#[derive(Debug, Clone)]
pub struct Embedding {
    weight: Weight,
    adapter: Option<Adapter>,
}

impl Embedding {
    /// A dense table [V, D].
    pub fn new(weight: Array) -> Self {
        Embedding { weight: Weight::dense(weight), adapter: None }
    }

    /// A new table, normal with standard deviation 1 / sqrt(dims), as `nn.Embedding(count, dims)`.
    #[track_caller]
    pub fn init(count: i32, dims: i32) -> Self {
        let scale = (1.0 / f64::from(dims)).sqrt() as f32;
        Embedding::new(random::normal([count, dims], Dtype::Float32, 0.0, scale, None))
    }

    /// A quantised table from its packed rows.
    pub fn quantized(weight: Array, scales: Array, biases: Option<Array>, quant: Quant) -> Self {
        Embedding { weight: Weight::quantized(weight, scales, biases, quant), adapter: None }
    }

    /// A table of codes [V, D / d] that stand for the vectors of a book [entries, d].
    #[track_caller]
    pub fn codebook(codes: Array, book: Array) -> Self {
        Embedding { weight: Weight::codes(codes, book), adapter: None }
    }

    /// ids: [...] -> [..., D]; ids out of range are clipped to the table.
    #[track_caller]
    pub fn forward(&self, ids: &Array) -> Array {
        let y = self.weight.rows(ids);
        let Some(a) = &self.adapter else { return y };
        let rows = a.lora_a.take(ids, 0);
        match &a.m {
            None => {
                let z = a.drop_some(&rows.matmul(&a.lora_b));
                &y + (z * a.scale).astype(y.dtype())
            }
            Some(m) => {
                let z = (rows * a.scale).matmul(&a.lora_b);
                let out = &y + a.drop_some(&z).astype(y.dtype());
                let norm = row_norms(&(&y + &z)).stop_gradient();
                (m.take(ids, 0) / norm).expand_dims(-1) * out
            }
        }
    }

    /// The table as an output layer: x [..., D] -> [..., V].
    #[track_caller]
    pub fn as_linear(&self, x: &Array) -> Array {
        let y = self.weight.matmul(x);
        let Some(a) = &self.adapter else { return y };
        let z = a.drop_some(x).matmul(&a.lora_b.t()).matmul(&a.lora_a.t());
        let out = y + (z * a.scale).astype(x.dtype());
        match &a.m {
            None => out,
            Some(m) => {
                let adapted = self.weight.to_dense() + (a.lora_a.value() * a.scale).matmul(&a.lora_b);
                (m.value() / row_norms(&adapted).stop_gradient()) * out
            }
        }
    }

    /// The table as the ops of `fast` take it; `None` with an adapter, a codebook or a rotation, which they do not know.
    pub fn matrix(&self) -> Option<Matrix<'_>> {
        self.weight.matrix().filter(|_| self.adapter.is_none())
    }

    /// Says that the table is stored in a rotated basis.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.weight.rotation = Some(rotation.into());
    }

    /// A float32 factor on the rows, [] or `[V]`; in nvfp4 the largest number it holds (MLX's `global_scale`).
    pub fn set_global_scale(&mut self, scale: Array) {
        self.weight.global_scale = Some(Param::sealed(scale).into());
    }

    /// Number of rows.
    pub fn count(&self) -> i32 {
        self.weight.weight.dim(-2)
    }
    /// Width of a row.
    pub fn dims(&self) -> i32 {
        self.weight.inputs()
    }
    /// The table as stored: dense [V, D], or packed words.
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
    pub fn quant(&self) -> Option<Quant> {
        self.weight.quant()
    }
    /// The dense table, without the adapter.
    #[track_caller]
    pub fn dense_weight(&self) -> Array {
        self.weight.to_dense()
    }
    /// Packs the table (`to_quantized`).
    #[track_caller]
    pub fn quantize(&mut self, quant: Quant) {
        self.weight.quantize(quant);
    }
    /// Makes the table dense.
    #[track_caller]
    pub fn dequantize(&mut self) {
        self.weight.dequantize();
    }

    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Sets or removes the adapter; panics if its shapes are not those of this table.
    #[track_caller]
    pub fn set_adapter(&mut self, adapter: Option<Adapter>) {
        if let Some(a) = &adapter {
            let (v, d) = (self.count(), self.dims());
            let fits = matches!((a.lora_a.shape(), a.lora_b.shape()),
                (&[x, r], &[s, y]) if (x, y) == (v, d) && r == s)
                && a.m.as_ref().is_none_or(|m| m.shape() == [v]);
            if !fits {
                let (a, b) = (a.lora_a.shape(), a.lora_b.shape());
                refuse("set_adapter", format!("lora_a {a:?}, lora_b {b:?} do not fit a table [{v}, {d}]"));
            }
        }
        self.adapter = adapter;
    }

    /// A fresh LoRA adapter (`LoRAEmbedding.from_base`): a uniform within 1 / sqrt(V), b zero.
    #[track_caller]
    pub fn add_lora(&mut self, rank: i32, scale: f32, dropout: f32) {
        let (v, d) = (self.count(), self.dims());
        let bound = 1.0 / f64::from(v).sqrt();
        let a = random::uniform(-bound, bound, [v, rank], Dtype::Float32, None);
        self.set_adapter(Some(Adapter::lora(a, crate::zeros([rank, d], Dtype::Float32), scale, dropout)));
    }

    /// A fresh DoRA adapter: as LoRA, magnitudes are the norms of the rows.
    #[track_caller]
    pub fn add_dora(&mut self, rank: i32, scale: f32, dropout: f32) {
        self.add_lora(rank, scale, dropout);
        let m = row_norms(&self.weight.to_dense());
        if let Some(a) = &mut self.adapter {
            a.m = Some(m.into());
        }
    }

    /// Adds the adapter into the table and drops it; a quantised table stays so unless `dequantize`.
    #[track_caller]
    pub fn fuse(&mut self, dequantize: bool) {
        let Some(a) = self.adapter.take() else { return };
        let (w, quant) = (self.weight.to_dense(), self.quant());
        let delta = (a.lora_a.value() * a.scale).matmul(&a.lora_b).astype(w.dtype());
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

impl Module for Embedding {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        self.weight.visit(path, f);
        if let Some(a) = &self.adapter {
            a.visit(path, f);
        }
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        self.weight.visit_mut(path, f);
        if let Some(a) = &mut self.adapter {
            a.visit_mut(path, f);
        }
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        f(path.as_str(), LayerMut::Embedding(self));
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
