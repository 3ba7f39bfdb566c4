//! Rows of unequal length in one buffer: each starts after its own padding on the left.

use super::{MaskKey, Position};
use mlx::Array;

/// Padding of each row; empty for one row, or when no row has any.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Padding(Vec<i32>);

impl Padding {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The padding of `rows` rows.
    pub fn of(&self, rows: usize) -> Vec<i32> {
        if self.0.is_empty() { vec![0; rows] } else { self.0.clone() }
    }
    pub fn new(rows: Vec<i32>) -> Self {
        Padding(if rows.iter().all(|&p| p == 0) { Vec::new() } else { rows })
    }
    pub fn array(&self) -> Option<Array> {
        (!self.0.is_empty()).then(|| Array::from(self.0.clone()))
    }
    /// Where the next token stands when the buffer holds `len`.
    pub fn position(&self, len: i32) -> Position {
        match self.0.is_empty() {
            true => Position::At(len),
            false => Position::Rows(Array::from(self.0.iter().map(|p| len - p).collect::<Vec<_>>())),
        }
    }
    /// A number that tells paddings apart in a mask's key.
    pub fn tag(&self) -> usize {
        self.0.iter().fold(self.0.len(), |h, &p| (h ^ p as usize).wrapping_mul(0x100_0000_01b3))
    }
    pub fn key(&self, kind: &'static str, offset: i32, size: i32, head: i32) -> MaskKey {
        MaskKey { kind, offset, size, head, padding: self.tag() }
    }
}
