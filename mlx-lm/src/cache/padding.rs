//! Rows of unequal length in one buffer: each starts after its own padding on the left.

use super::{MaskKey, Position, causal_mask};
use mlx::Array;
use mlx::fast::Mask;

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
    /// [`of`](Self::of) as kernels read it, `None` where no row has any.
    pub fn starts(&self) -> Option<Array> {
        // no array of a few bytes: those lie where the host could touch them
        let mut starts = self.0.clone();
        starts.resize(starts.len().max(16), 0);
        (!self.is_empty()).then(|| Array::from(starts))
    }
    pub fn new(rows: Vec<i32>) -> Self {
        Padding(if rows.iter().all(|&p| p == 0) { Vec::new() } else { rows })
    }
    /// Padding of the rows of both, which get `more` on top each.
    pub fn join((a, more_a): (Vec<i32>, i32), (b, more_b): (Vec<i32>, i32)) -> Self {
        Self::new(a.iter().map(|p| p + more_a).chain(b.iter().map(|p| p + more_b)).collect())
    }
    /// Padding of some of `n` rows, less what all of these share, and how much that is.
    pub fn keep(&self, n: usize, rows: &[usize]) -> (i32, Self) {
        let all = self.of(n);
        let kept: Vec<i32> = rows.iter().filter_map(|&r| all.get(r).copied()).collect();
        let common = kept.iter().min().copied().unwrap_or(0);
        (common, Self::new(kept.iter().map(|p| p - common).collect()))
    }
    /// Which keys the next `n` queries see of a buffer that holds `len` and grows without end.
    pub fn mask(&self, len: i32, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        let beyond = window.is_some_and(|w| len + n > w);
        match n {
            _ if as_array || beyond || !self.is_empty() => {
                Mask::Array(causal_mask(n, len, window, self.array().as_ref()))
            }
            1 => Mask::None,
            _ => Mask::Causal,
        }
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
