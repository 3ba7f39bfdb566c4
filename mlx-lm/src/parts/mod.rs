//! What the parts of a decoder are to each other: the traits that mixers, ffns, layers and prologues implement, the
//! registry that builds them from a blueprint, the step that they share, and the norms that all of them use. No maths of
//! a model lives here.

mod norm;
mod registry;
mod step;

pub use norm::Norm;
pub use registry::Registry;
pub(crate) use step::Left;
pub use step::{Around, Onto, SharedKv, Step};

use crate::cache::Cache;
use mlx::Array;
use mlx::nn::Module;

/// x [B, L, D] -> [B, L, D], with what the layer remembers.
pub trait Mixer: Module {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array;

    /// `forward(rms_norm(x))` of one token per row, and x where [`Around`] asks for it, in few kernels; `None` where there
    /// are none for this mixer. The cache is then untouched.
    fn fused(&self, _x: &Array, _around: &Around<'_>, _cache: &mut dyn Cache) -> Option<Array> {
        None
    }

    /// `onto.x + forward(x)` of one token per row in few kernels, where x is normed already; `None` where there are none for
    /// this mixer. The cache is then untouched.
    fn onto(&self, _x: &Array, _onto: Onto<'_>, _step: &Step, _cache: &mut dyn Cache) -> Option<Array> {
        None
    }

    /// Weights that [`fused`](Self::fused) reads first.
    fn first_weights(&self) -> [Option<&Array>; 2] {
        [None, None]
    }
}

/// x [B, L, D] -> [B, L, D], token by token.
pub trait Ffn: Module {
    fn forward(&self, x: &Array, step: &Step) -> Array;

    /// `forward(rms_norm(x))` of one token per row, and x where [`Around`] asks for it, in few kernels; `None` where there
    /// are none for this part.
    fn fused(&self, _x: &Array, _around: &Around<'_>) -> Option<Array> {
        None
    }

    /// Weights that [`fused`](Self::fused) reads first.
    fn first_weights(&self) -> [Option<&Array>; 2] {
        [None, None]
    }
}

/// One layer: x [B, L, D] -> [B, L, D].
pub trait Block: Module {
    fn forward(&self, x: Array, step: &Step, cache: &mut dyn Cache) -> Array;

    /// Weights that a step of one token per row reads first.
    fn first_weights(&self) -> [Option<&Array>; 2] {
        [None, None]
    }
}

/// Runs before the first layer and after the last one.
pub trait Prologue: Module {
    /// Embeddings [B, L, D] to what the first layer gets; with the cache that its part declares, if any.
    fn before(&self, h: Array, step: &Step, cache: Option<&mut dyn Cache>) -> Array;
    /// What the last layer gave to [B, L, D].
    fn after(&self, h: Array, _step: &Step) -> Array {
        h
    }
}
