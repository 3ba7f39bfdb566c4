//! Positions: rotary, sinusoidal and linear-bias encodings.

use super::Module;
use crate::{Array, fast};

/// Rotary position embedding (`nn.RoPE`).
#[derive(Debug, Clone, Module)]
pub struct Rope {
    /// How many leading features rotate.
    pub dims: i32,
    /// Pairs are neighbours (true) or halves (false).
    pub traditional: bool,
    pub base: f32,
    /// Factor on positions.
    pub scale: f32,
    /// Explicit wavelengths [dims / 2] in place of `base`; not a parameter.
    pub freqs: Option<Array>,
}

impl Rope {
    /// Base 10000, scale 1.
    pub fn new(dims: i32, traditional: bool) -> Self {
        Rope { dims, traditional, base: 10000.0, scale: 1.0, freqs: None }
    }

    /// x: [..., L, D] -> [..., L, D]; `offset` is the position of the first token.
    #[track_caller]
    pub fn forward<'o>(&self, x: &Array, offset: impl Into<fast::Offset<'o>>) -> Array {
        let Rope { dims, traditional, base, scale, ref freqs } = *self;
        fast::rope(x, fast::Rope { dims, traditional, base, scale, freqs: freqs.as_ref() }, offset)
    }
}
