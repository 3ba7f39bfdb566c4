//! A weight in one of its forms: dense, packed with scales, or codes of a book. What `Linear`, `Embedding` and
//! `SwitchLinear` share.

use super::codes::Book;
use super::module::{Param, Path};
use super::rotation::Rotation;
use crate::error::refuse;
use crate::fast::{self, Fused, Matrix};
use crate::{Array, Dtype, Quant, QuantMode};

/// The largest number of nvfp4: e2m1's times e4m3's.
const NVFP4_LARGEST: f32 = 6.0 * 448.0;

/// A weight [..., out, in], dense or quantised along its last axis.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    /// Dense values, packed words, or codes [..., out, in / D].
    pub weight: Param,
    pub packed: Option<Packed>,
    /// What codes stand for.
    pub book: Option<Book>,
    /// The basis of the last axis, where it is not the inputs' own.
    pub rotation: Option<Box<Rotation>>,
    /// uint32 `[in]`: which input each stored column takes, where they are not in order.
    pub order: Option<Box<Param>>,
    /// float32 [], `[out]`, of experts `[E]` or [E, out]: a factor on the product. In nvfp4 it is MLX's, the largest
    /// number that the packed form can hold.
    pub global_scale: Option<Box<Param>>,
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
        Weight::of(weight.into(), None, None)
    }

    fn of(weight: Param, packed: Option<Packed>, book: Option<Book>) -> Self {
        Weight { weight, packed, book, rotation: None, order: None, global_scale: None }
    }

    /// Codes [out, in / D] of the vectors of a book [entries, D]; of experts [E, out, in / D] and [E, entries, D].
    #[track_caller]
    pub fn codes(codes: Array, book: Array) -> Self {
        let book = Book::new(&codes, book);
        Weight::of(Param::sealed(codes), None, Some(book))
    }

    pub fn quantized(weight: Array, scales: Array, biases: Option<Array>, quant: Quant) -> Self {
        let packed = Packed { scales: Param::sealed(scales), biases: biases.map(Param::sealed), quant };
        Weight::of(Param::sealed(weight), Some(packed), None)
    }

    pub fn quant(&self) -> Option<Quant> {
        self.packed.as_ref().map(|p| p.quant)
    }

    /// Width of the dense last axis.
    pub fn inputs(&self) -> i32 {
        let width = self.weight.dim(-1);
        match &self.book {
            Some(b) => width * b.width(),
            None => self.quant().map_or(width, |q| q.unpacked(width)),
        }
    }

    /// What the product is multiplied by, in float32.
    fn factor(&self) -> Option<Array> {
        let scale = self.global_scale.as_ref()?.value().astype(Dtype::Float32);
        let nvfp4 = self.quant().is_some_and(|q| q.mode == QuantMode::Nvfp4);
        Some(if nvfp4 { scale / NVFP4_LARGEST } else { scale })
    }

    /// The dense weight.
    #[track_caller]
    pub fn to_dense(&self) -> Array {
        self.to_dense_in(None)
    }

    /// As [`to_dense`](Self::to_dense), a quantised one in this type.
    #[track_caller]
    pub fn to_dense_in(&self, dtype: Option<Dtype>) -> Array {
        let mut rows = match (&self.packed, &self.book) {
            (_, Some(book)) => book.rows(&self.weight),
            (None, _) => self.weight.value().clone(),
            (Some(p), _) => crate::dequantize(&self.weight, &p.scales, p.biases.as_deref(), p.quant, dtype),
        };
        if let Some(f) = self.factor() {
            // one for each matrix, or for each row
            let axes: Vec<i32> = (f.ndim()..rows.ndim()).map(|i| i as i32).collect();
            let f = if f.ndim() > 0 { f.expand_dims(axes) } else { f };
            rows = (&rows * f).astype(rows.dtype());
        }
        self.plain(rows)
    }

    /// Rows as stored, in the inputs' own basis and order.
    fn plain(&self, rows: Array) -> Array {
        let rows = self.order.as_ref().map_or(rows.clone(), |o| rows.take(&crate::argsort(o, -1), -1));
        self.rotation.as_ref().map_or_else(|| rows.clone(), |r| r.undo(&rows))
    }

    /// The weight as the ops of `fast` take it, which know packed rows and nothing around them.
    pub fn matrix(&self) -> Option<Matrix<'_>> {
        let bare = self.rotation.is_none() && self.order.is_none() && self.global_scale.is_none();
        if bare { self.stored() } else { None }
    }

    /// As [`matrix`](Self::matrix), for inputs in the weight's basis and products before their factor.
    fn stored(&self) -> Option<Matrix<'_>> {
        match (&self.book, &self.packed) {
            (Some(_), _) => None,
            (None, None) => Some(Matrix::dense(&self.weight)),
            (None, Some(p)) => Some(Matrix::quantized(&self.weight, &p.scales, p.biases.as_deref(), p.quant)),
        }
    }

    /// Inputs as the stored weight takes them.
    fn inward(&self, x: &Array) -> Array {
        let x = self.order.as_ref().map_or_else(|| x.clone(), |o| x.take(o, -1));
        let x = self.rotation.as_ref().map_or_else(|| x.clone(), |r| r.apply(&x));
        // a product before its factor may be too large for float16
        let wide = self.global_scale.is_some() && x.dtype() == Dtype::Float16;
        if wide { x.astype(Dtype::Float32) } else { x }
    }

    /// x @ weight.T for a weight [out, in].
    #[track_caller]
    pub fn matmul(&self, x: &Array) -> Array {
        let y = match (self.stored(), &self.book) {
            (Some(m), _) => fast::linear(&self.inward(x), &[m], Fused::default()),
            (None, Some(book)) => book.matmul(&self.inward(x), &self.weight),
            (None, None) => unreachable!("only codes have no matrix"),
        };
        self.factor().map_or(y.clone(), |f| (y * f).astype(x.dtype()))
    }

    /// Products with chosen experts of a weight [E, out, in], as [`fast::expert_linear`].
    #[track_caller]
    pub fn matmul_experts(&self, x: &Array, experts: &Array, bias: Option<&Array>, sorted: bool) -> Array {
        if let Some(m) = self.matrix() {
            return fast::expert_linear(x, &[m.with_bias(bias)], experts, None, sorted);
        }
        let y = match (self.stored(), &self.book) {
            (Some(m), _) => fast::expert_linear(&self.inward(x), &[m], experts, None, sorted),
            (None, Some(book)) => book.matmul_experts(&self.inward(x), &self.weight, experts, sorted),
            (None, None) => unreachable!("only codes have no matrix"),
        };
        // [.., S] of matrices or [.., S, out] of rows against [.., S, 1, out]
        let chosen = |a: &Array| match a.ndim() {
            0 => a.clone(),
            1 => a.take(experts, 0).expand_dims([-1, -2]),
            _ => a.take(experts, 0).expand_dims(-2),
        };
        let y = self.factor().map_or(y.clone(), |f| (y * chosen(&f)).astype(x.dtype()));
        bias.map_or(y.clone(), |b| y + chosen(b))
    }

    /// Rows of the dense form.
    #[track_caller]
    pub fn rows(&self, ids: &Array) -> Array {
        let rows = self.plain(self.stored_rows(ids));
        let Some(f) = self.factor() else { return rows };
        let f = if f.ndim() > 0 { f.take(ids, 0).expand_dims(-1) } else { f };
        (&rows * f).astype(rows.dtype())
    }

    #[track_caller]
    fn stored_rows(&self, ids: &Array) -> Array {
        if let Some(book) = &self.book {
            return book.rows(&self.weight.take(ids, 0));
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
            *self = Weight::of(Param::frozen(self.to_dense()), None, None);
        }
    }

    pub fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        path.enter("weight", |p| f(p.as_str(), &self.weight));
        if let Some(r) = &self.rotation {
            path.enter("signs", |p| f(p.as_str(), &r.signs));
        }
        if let Some(book) = &self.book {
            path.enter("codebook", |p| f(p.as_str(), &book.vectors));
        }
        for (name, part) in [("order", self.order.as_deref()), ("global_scale", self.global_scale.as_deref())] {
            part.into_iter().for_each(|part| path.enter(name, |p| f(p.as_str(), part)));
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
            path.enter("codebook", |p| f(p.as_str(), &mut book.vectors));
        }
        for (name, part) in [("order", self.order.as_deref_mut()), ("global_scale", self.global_scale.as_deref_mut())] {
            part.into_iter().for_each(|part| path.enter(name, |p| f(p.as_str(), part)));
        }
        if let Some(packed) = &mut self.packed {
            path.enter("scales", |p| f(p.as_str(), &mut packed.scales));
            if let Some(biases) = &mut packed.biases {
                path.enter("biases", |p| f(p.as_str(), biases));
            }
        }
    }
}
