//! A weight in one of its forms: dense, packed with scales, or codes of a book. What `Linear`, `Embedding` and `SwitchLinear` share.

use super::module::{Param, Path};
use super::rotation::Rotation;
use crate::error::refuse;
use crate::fast::{self, Fused, Matrix};
use crate::{Array, Quant};

/// Bytes of a dense block of rows that a product with codes makes at once.
const BLOCK: i64 = 8 << 20;

/// A weight [..., out, in], dense or quantised along its last axis.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    /// Dense values, packed words, or codes [..., out, in / D].
    pub weight: Param,
    pub packed: Option<Packed>,
    /// Vectors [entries, D] that codes stand for.
    pub book: Option<Param>,
    /// The basis of the last axis, where it is not the inputs' own.
    pub rotation: Option<Rotation>,
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
        Weight { weight: weight.into(), packed: None, book: None, rotation: None }
    }

    /// Codes [out, in / D] of the vectors of a book [entries, D].
    pub fn codes(codes: Array, book: Array) -> Self {
        if codes.ndim() != 2 || book.ndim() != 2 {
            refuse("codebook", format!("codes {:?} of vectors {:?}", codes.shape(), book.shape()));
        }
        Weight { weight: Param::sealed(codes), packed: None, book: Some(Param::sealed(book)), rotation: None }
    }

    pub fn quantized(weight: Array, scales: Array, biases: Option<Array>, quant: Quant) -> Self {
        let packed = Packed { scales: Param::sealed(scales), biases: biases.map(Param::sealed), quant };
        Weight { weight: Param::sealed(weight), packed: Some(packed), book: None, rotation: None }
    }

    pub fn quant(&self) -> Option<Quant> {
        self.packed.as_ref().map(|p| p.quant)
    }

    /// Width of the dense last axis.
    pub fn inputs(&self) -> i32 {
        let width = self.weight.dim(-1);
        match &self.book {
            Some(b) => width * b.dim(-1),
            None => self.quant().map_or(width, |q| q.unpacked(width)),
        }
    }

    /// The dense weight.
    #[track_caller]
    pub fn to_dense(&self) -> Array {
        if let Some(book) = &self.book {
            return book.take(&self.weight, 0).flatten(-2, -1);
        }
        let rows = match &self.packed {
            None => self.weight.value().clone(),
            Some(p) => crate::dequantize(&self.weight, &p.scales, p.biases.as_deref(), p.quant, None),
        };
        self.plain(rows)
    }

    /// Rows as stored, in the inputs' own basis.
    fn plain(&self, rows: Array) -> Array {
        self.rotation.as_ref().map_or_else(|| rows.clone(), |r| r.undo(&rows))
    }

    /// The weight as the ops of `fast` take it, which know neither codes nor rotations.
    pub fn matrix(&self) -> Option<Matrix<'_>> {
        if self.rotation.is_none() { self.stored() } else { None }
    }

    /// As [`matrix`](Self::matrix), for inputs in the weight's basis.
    fn stored(&self) -> Option<Matrix<'_>> {
        match (&self.book, &self.packed) {
            (Some(_), _) => None,
            (None, None) => Some(Matrix::dense(&self.weight)),
            (None, Some(p)) => Some(Matrix::quantized(&self.weight, &p.scales, p.biases.as_deref(), p.quant)),
        }
    }

    /// x @ weight.T block by block of rows: the dense weight never exists as a whole.
    #[track_caller]
    fn matmul_codes(&self, x: &Array, book: &Array) -> Array {
        let (out, width) = (self.weight.dim(0), self.inputs());
        let rows =
            (BLOCK / (i64::from(width.max(1)) * book.dtype().size() as i64)).clamp(1, i64::from(out.max(1))) as i32;
        let parts: Vec<Array> = (0..out)
            .step_by(rows as usize)
            .map(|at| {
                let codes = self.weight.slice_axis(0, at..out.min(at + rows));
                x.matmul(&book.take(&codes, 0).flatten(-2, -1).astype(x.dtype()).t())
            })
            .collect();
        crate::concatenate(&parts, -1)
    }

    /// x @ weight.T for a weight [out, in].
    #[track_caller]
    pub fn matmul(&self, x: &Array) -> Array {
        match (self.stored(), &self.book) {
            (Some(m), _) => {
                let turned = self.rotation.as_ref().map(|r| r.apply(x));
                fast::linear(turned.as_ref().unwrap_or(x), &[m], Fused::default())
            }
            (None, Some(book)) => self.matmul_codes(x, book),
            (None, None) => unreachable!("only codes have no matrix"),
        }
    }

    /// Rows of the dense form.
    #[track_caller]
    pub fn rows(&self, ids: &Array) -> Array {
        self.plain(self.stored_rows(ids))
    }

    #[track_caller]
    fn stored_rows(&self, ids: &Array) -> Array {
        if let Some(book) = &self.book {
            return book.take(&self.weight.take(ids, 0), 0).flatten(-2, -1);
        }
        if let Some(rows) = self.stored().and_then(|m| fast::embed_fused(ids, &m, 1.0)) {
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
        if self.packed.is_some() || self.book.is_some() {
            *self = Weight { weight: Param::frozen(self.to_dense()), packed: None, book: None, rotation: None };
        }
    }

    pub fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        path.enter("weight", |p| f(p.as_str(), &self.weight));
        if let Some(r) = &self.rotation {
            path.enter("signs", |p| f(p.as_str(), &r.signs));
        }
        if let Some(book) = &self.book {
            path.enter("codebook", |p| f(p.as_str(), book));
        }
        if let Some(packed) = &self.packed {
            path.enter("scales", |p| f(p.as_str(), &packed.scales));
            if let Some(biases) = &packed.biases {
                path.enter("biases", |p| f(p.as_str(), biases));
            }
        }
    }

    pub fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        path.enter("weight", |p| f(p.as_str(), &mut self.weight));
        if let Some(r) = &mut self.rotation {
            path.enter("signs", |p| f(p.as_str(), &mut r.signs));
        }
        if let Some(book) = &mut self.book {
            path.enter("codebook", |p| f(p.as_str(), book));
        }
        if let Some(packed) = &mut self.packed {
            path.enter("scales", |p| f(p.as_str(), &mut packed.scales));
            if let Some(biases) = &mut packed.biases {
                path.enter("biases", |p| f(p.as_str(), biases));
            }
        }
    }
}
