//! No memory: keys and values of one pass go straight to the queries.

use super::{Cache, Kv, MaskKey, Position, causal_mask, mask::chunk_mask};
use mlx::Array;
use mlx::fast::Mask;

/// Attention without a cache.
#[derive(Debug, Default, Clone)]
pub struct Direct {
    /// Queries see only their own chunk of this many positions.
    pub chunk: Option<i32>,
    /// Numbers [B, L] of the samples that share a row: queries see only keys of their own.
    pub segments: Option<Array>,
}

impl Cache for Direct {
    fn kind(&self) -> &'static str {
        "none"
    }
    fn offset(&self) -> i32 {
        0
    }
    fn each(&self, _: &mut dyn FnMut(&Array)) {}
    fn as_kv(&mut self) -> Option<&mut dyn Kv> {
        Some(self)
    }
}

impl Kv for Direct {
    fn position(&self) -> Position {
        Position::At(0)
    }
    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        (k, v)
    }
    fn fetch(&self) -> Option<(Array, Array)> {
        None
    }
    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        if let Some(s) = &self.segments {
            let same = s.expand_dims(2).eq(s.expand_dims(1));
            return Mask::Array(causal_mask(n, 0, window, None).logical_and(same).expand_dims(1));
        }
        match window {
            _ if n == 1 && !as_array => Mask::None,
            _ if self.chunk.is_some_and(|c| n > c) => Mask::Array(chunk_mask(n, 0, self.chunk.unwrap_or(n), window)),
            Some(w) if n > w => Mask::Array(causal_mask(n, 0, Some(w), None)),
            _ if as_array => Mask::Array(causal_mask(n, 0, window, None)),
            _ => Mask::Causal,
        }
    }
    fn mask_key(&self) -> MaskKey {
        MaskKey { kind: "none", offset: 0, size: self.chunk.unwrap_or(0), head: 0, padding: 0 }
    }
}
