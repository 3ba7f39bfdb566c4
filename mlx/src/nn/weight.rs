//! A weight in one of its forms: dense, or packed with scales. What `Linear`, `Embedding` and `SwitchLinear` share.

use super::module::{Param, Path};
use crate::error::refuse;
use crate::fast::{self, Fused, Matrix};
use crate::{Array, Quant};

/// A weight [..., out, in], dense or quantised along its last axis.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    pub weight: Param,
    pub packed: Option<Packed>,
}

/// What a quantised weight has besides its words.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub scales: Param,
    /// Only in affine mode.
    pub biases: Option<Param>,
    pub quant: Quant,
}

impl Weight {
    pub fn dense(weight: Array) -> Self {
        Weight { weight: weight.into(), packed: None }
    }

    pub fn quantized(weight: Array, scales: Array, biases: Option<Array>, quant: Quant) -> Self {
        let packed = Packed { scales: Param::sealed(scales), biases: biases.map(Param::sealed), quant };
        Weight { weight: Param::sealed(weight), packed: Some(packed) }
    }

    pub fn quant(&self) -> Option<Quant> {
        self.packed.as_ref().map(|p| p.quant)
    }

    /// Width of the dense last axis.
    pub fn inputs(&self) -> i32 {
        let width = self.weight.dim(-1);
        self.quant().map_or(width, |q| q.unpacked(width))
    }

    /// The dense weight.
    #[track_caller]
    pub fn to_dense(&self) -> Array {
        match &self.packed {
            None => self.weight.value().clone(),
            Some(p) => crate::dequantize(&self.weight, &p.scales, p.biases.as_deref(), p.quant, None),
        }
    }

    /// The weight as the ops of `fast` take it.
    pub fn matrix(&self) -> Matrix<'_> {
        match &self.packed {
            None => Matrix::dense(&self.weight),
            Some(p) => Matrix::quantized(&self.weight, &p.scales, p.biases.as_deref(), p.quant),
        }
    }

    /// x @ weight.T for a weight [out, in].
    #[track_caller]
    pub fn matmul(&self, x: &Array) -> Array {
        fast::linear(x, &[self.matrix()], Fused::default())
    }

    /// Rows of the dense form.
    #[track_caller]
    pub fn rows(&self, ids: &Array) -> Array {
        if let Some(rows) = fast::embed_fused(ids, &self.matrix(), 1.0) {
            return rows;
        }
        match &self.packed {
            None => self.weight.take(ids, 0),
            Some(p) => {
                let take = |a: &Array| a.take(ids, 0);
                let biases = p.biases.as_deref().map(take);
                let (words, scales) = (take(&self.weight), take(&p.scales));
                // one row has no second axis to check: give it one
                if ids.ndim() == 0 {
                    let row = |a: &Array| a.expand_dims(0);
                    let biases = biases.as_ref().map(row);
                    return crate::dequantize(&row(&words), &row(&scales), biases.as_ref(), p.quant, None).squeeze(0);
                }
                crate::dequantize(&words, &scales, biases.as_ref(), p.quant, None)
            }
        }
    }

    /// Packs the weight; a quantised one is packed anew.
    #[track_caller]
    pub fn quantize(&mut self, quant: Quant) {
        let dense = self.to_dense();
        if dense.dim(-1) % quant.group_size.max(1) != 0 {
            refuse("quantize", format!("last axis of {:?} is not a multiple of {}", dense.shape(), quant.group_size));
        }
        let (words, scales, biases) = crate::quantize(&dense, quant);
        *self = Weight::quantized(words, scales, biases, quant);
    }

    /// Makes the weight dense; it is trained only if it was before.
    #[track_caller]
    pub fn dequantize(&mut self) {
        if self.packed.is_some() {
            *self = Weight { weight: Param::frozen(self.to_dense()), packed: None };
        }
    }

    pub fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        path.enter("weight", |p| f(p.as_str(), &self.weight));
        if let Some(packed) = &self.packed {
            path.enter("scales", |p| f(p.as_str(), &packed.scales));
            if let Some(biases) = &packed.biases {
                path.enter("biases", |p| f(p.as_str(), biases));
            }
        }
    }

    pub fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        path.enter("weight", |p| f(p.as_str(), &mut self.weight));
        if let Some(packed) = &mut self.packed {
            path.enter("scales", |p| f(p.as_str(), &mut packed.scales));
            if let Some(biases) = &mut packed.biases {
                path.enter("biases", |p| f(p.as_str(), biases));
            }
        }
    }
}
