//! Weights that are stored in a rotated basis.

use super::module::Param;
use crate::{Array, Dtype, concatenate, hadamard_transform};

/// A signed Walsh-Hadamard rotation of the inputs of a weight, block by block: R = H diag(signs), H of the block's size
/// and orthogonal. A stored weight W stands for W R: spread out so, few bits hold it better (QuaRot, arXiv:2404.00456).
#[derive(Debug, Clone)]
pub struct Rotation {
    pub(super) signs: Param,
    /// Their sizes, one after the other; a single one stands for as many as there are.
    blocks: Vec<i32>,
}

impl Rotation {
    /// Signs `[in]`, 1 or -1 each, and the size of a block, which divides their number.
    pub fn new(signs: Array, block: i32) -> Self {
        Rotation { signs: Param::sealed(signs), blocks: vec![block] }
    }

    /// Signs `[in]` for blocks of descending powers of two (192 is 128 and 64), as JANGTQ rotates.
    pub fn of_powers(signs: Array) -> Self {
        let mut left = signs.size() as u32;
        let mut blocks = Vec::new();
        while left > 0 {
            blocks.push(1 << left.ilog2());
            left -= 1 << left.ilog2();
        }
        Rotation { signs: Param::sealed(signs), blocks }
    }

    fn transform(&self, x: &Array) -> Array {
        let turned = |x: &Array, block: i32| hadamard_transform(x, Some((block as f32).powf(-0.5)));
        if let [block] = self.blocks[..] {
            return turned(&x.unflatten(-1, [-1, block]), block).flatten(-2, -1);
        }
        let mut at = 0;
        let parts = self.blocks.iter().map(|&block| {
            at += block;
            turned(&x.slice_axis(-1, at - block..at), block)
        });
        concatenate(&parts.collect::<Vec<_>>(), -1)
    }

    /// R x for x [..., in], in float32 inside.
    #[track_caller]
    pub fn apply(&self, x: &Array) -> Array {
        self.transform(&(x.astype(Dtype::Float32) * self.signs.value())).astype(x.dtype())
    }

    /// What [`apply`](Self::apply) came from.
    #[track_caller]
    pub fn undo(&self, x: &Array) -> Array {
        (self.transform(&x.astype(Dtype::Float32)) * self.signs.value()).astype(x.dtype())
    }
}
