//! The tokens of a group that is not full yet.

use super::{Cache, State, take_rows};
use crate::Result;
use mlx::{self as mx, Array};

/// Rows [B, n, D] and their weights [B, n, D], n less than the size of a group.
///
/// Groups begin at a row's first token: rows of unequal length cannot share this cache.
#[derive(Debug, Default, Clone)]
pub struct OpenGroup {
    pending: Option<(Array, Array)>,
    offset: i32,
}

impl OpenGroup {
    /// Adds rows and weights; those of all groups of `size` that are full now, `None` when there is none.
    pub fn close(&mut self, rows: Array, weights: Array, size: i32) -> Option<(Array, Array)> {
        self.offset += rows.dim(1);
        let (rows, weights) = match self.pending.take() {
            None => (rows, weights),
            Some((r, w)) => (mx::concatenate(&[r, rows], 1), mx::concatenate(&[w, weights], 1)),
        };
        let (n, full) = (rows.dim(1), rows.dim(1) / size * size);
        let cut = |a: &Array, from: i32, to: i32| a.slice_axis(1, from..to);
        if full < n {
            self.pending = Some((cut(&rows, full, n), cut(&weights, full, n)));
        }
        (full > 0).then(|| (cut(&rows, 0, full), cut(&weights, 0, full)))
    }

    pub(super) fn from_state(s: &State) -> Option<OpenGroup> {
        let offset = i32::try_from(s.item(2)?.int()?).ok()?;
        let pending = match (s.item(0)?.array(), s.item(1)?.array()) {
            (Some(r), Some(w)) if r.ndim() == 3 && w.shape() == r.shape() => Some((r.clone(), w.clone())),
            (None, None) => None,
            _ => return None,
        };
        Some(OpenGroup { pending, offset })
    }
}

impl Cache for OpenGroup {
    fn kind(&self) -> &'static str {
        "OpenGroup"
    }
    fn offset(&self) -> i32 {
        self.offset
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        if let Some((rows, weights)) = &self.pending {
            f(rows);
            f(weights);
        }
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        self.pending = self.pending.take().map(|(r, w)| (take_rows(&r, rows), take_rows(&w, rows)));
        Ok(())
    }
    fn state(&self) -> State {
        State::of_buffers(self.pending.as_ref(), [self.offset])
    }
}
