//! Low-rank adapters that live inside a layer: LoRA (arXiv:2106.09685) and DoRA (arXiv:2402.09353).

use super::module::{Param, Path};
use crate::{Array, CustomFunction};

/// A low-rank update of a layer's weight, `scale * a b`, and DoRA's magnitudes.
///
/// Shapes, for a weight [out, in] and rank r: `lora_a` [in, r], `lora_b` [r, out]; for a table [V, d]: [V, r], [r, d];
/// for experts [E, out, in]: [E, r, in], [E, out, r]. `m` has one entry per row of the weight.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub lora_a: Param,
    pub lora_b: Param,
    /// DoRA's magnitude of each row; `None` for LoRA.
    pub m: Option<Param>,
    /// Factor on the update: a plain multiplier, not alpha / r.
    pub scale: f32,
    /// Probability that an input of the update is dropped in training.
    pub dropout: f32,
    training: bool,
}

impl Adapter {
    /// LoRA from its two factors.
    pub fn lora(lora_a: Array, lora_b: Array, scale: f32, dropout: f32) -> Self {
        Adapter { lora_a: lora_a.into(), lora_b: lora_b.into(), m: None, scale, dropout, training: true }
    }

    /// DoRA from its factors and magnitudes.
    pub fn dora(lora_a: Array, lora_b: Array, m: Array, scale: f32, dropout: f32) -> Self {
        Adapter { m: Some(m.into()), ..Adapter::lora(lora_a, lora_b, scale, dropout) }
    }

    pub fn rank(&self) -> i32 {
        self.lora_a.shape().iter().chain(self.lora_b.shape()).copied().min().unwrap_or(0)
    }

    pub(super) fn set_training(&mut self, on: bool) {
        self.training = on;
    }

    /// Whether inputs of the update are dropped at present.
    pub(super) fn drops(&self) -> bool {
        self.training && self.dropout > 0.0
    }

    pub(super) fn drop_some(&self, x: &Array) -> Array {
        if self.training { super::dropout::dropout(x, self.dropout.into(), x.shape()) } else { x.clone() }
    }

    /// (drop(x) a) (b * scale), in the dtype of `like`: b is the smallest of the arrays that the scale could go to.
    #[track_caller]
    pub(super) fn delta(&self, x: &Array, like: &Array) -> Array {
        let inner = narrow_product(&self.drop_some(x), &self.lora_a);
        inner.matmul(&(self.lora_b.value() * self.scale)).astype(like.dtype())
    }

    pub(super) fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        path.enter("lora_a", |p| f(p.as_str(), &self.lora_a));
        path.enter("lora_b", |p| f(p.as_str(), &self.lora_b));
        if let Some(m) = &self.m {
            path.enter("m", |p| f(p.as_str(), m));
        }
    }

    pub(super) fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        path.enter("lora_a", |p| f(p.as_str(), &mut self.lora_a));
        path.enter("lora_b", |p| f(p.as_str(), &mut self.lora_b));
        if let Some(m) = &mut self.m {
            path.enter("m", |p| f(p.as_str(), m));
        }
    }
}

/// x a in the dtype of both together. Its gradient widens x again, so that the backward pass keeps x alone, which it has
/// anyway, and no float32 copy for each adapter that reads it.
#[track_caller]
fn narrow_product(x: &Array, a: &Array) -> Array {
    if x.dtype() == a.dtype() || x.dtype().promote(a.dtype()) != a.dtype() {
        return x.matmul(a);
    }
    let vjp = |(x, a): &(Array, Array), dy: &Array, _: &Array| {
        let rows = |z: &Array| z.reshape([-1, z.dim(-1)]);
        (dy.matmul(&a.t()).astype(x.dtype()), rows(x).t().astype(a.dtype()).matmul(&rows(dy)))
    };
    let jvp = |(x, a): &(Array, Array), (dx, da): &(Array, Array)| dx.matmul(a) + x.matmul(da);
    CustomFunction::new(|(x, a): &(Array, Array)| x.matmul(a)).vjp(vjp).jvp(jvp).call(&(x.clone(), a.clone()))
}

/// Norm of each row: [.., n, k] -> [.., n].
#[track_caller]
pub(super) fn row_norms(w: &Array) -> Array {
    w.square().sum(-1).sqrt()
}
