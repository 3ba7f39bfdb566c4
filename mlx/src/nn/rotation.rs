//! Weights that are stored in a rotated basis.

use super::module::Param;
use crate::{Array, Dtype, hadamard_transform};

/// A signed Walsh-Hadamard rotation of the inputs of a weight, block by block: R = H diag(signs), H of the block's size
/// and orthogonal. A stored weight W stands for W R: spread out so, few bits hold it better (QuaRot, arXiv:2404.00456).
#[derive(Debug, Clone)]
pub struct Rotation {
    pub(super) signs: Param,
    block: i32,
}

impl Rotation {
    /// Signs `[in]`, 1 or -1 each, and the size of a block, which divides their number.
    pub fn new(signs: Array, block: i32) -> Self {
        Rotation { signs: Param::sealed(signs), block }
    }

    fn transform(&self, x: &Array) -> Array {
        let scale = (self.block as f32).powf(-0.5);
        hadamard_transform(&x.unflatten(-1, [-1, self.block]), Some(scale)).flatten(-2, -1)
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
