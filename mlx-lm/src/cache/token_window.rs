//! The last rows of a sequence, oldest first.

use super::{Cache, State, take_rows};
use crate::Result;
use mlx::{self as mx, Array};

/// The last `size` rows, one tensor [B, T, D] in the order of their tokens.
///
/// Rows of a batch stand at the same position: those of unequal length cannot share this cache.
#[derive(Debug, Clone)]
pub struct TokenWindow {
    rows: Option<Array>,
    size: i32,
    offset: i32,
}

impl TokenWindow {
    /// A window of `size` tokens; a size below 1 counts as 1.
    pub fn new(size: i32) -> Self {
        TokenWindow { rows: None, size: size.max(1), offset: 0 }
    }

    /// What was held and the new rows [B, L, D], of which the last `size` are kept.
    pub fn update(&mut self, new: Array) -> Array {
        self.offset += new.dim(1);
        let all = match self.rows.take() {
            None => new,
            Some(old) => mx::concatenate(&[old, new], 1),
        };
        let n = all.dim(1);
        self.rows =
            Some(if n > self.size { mx::contiguous(&all.slice_axis(1, n - self.size..n)) } else { all.clone() });
        all
    }

    pub(super) fn from_state(s: &State) -> Option<TokenWindow> {
        let int = |i: usize| i32::try_from(s.item(i)?.int()?).ok();
        let (offset, size) = (int(2)?, int(3)?);
        let rows = s.item(0)?.array().cloned();
        let len = rows.as_ref().map_or(Some(0), |r| (r.ndim() == 3).then(|| r.dim(1)))?;
        (size > 0 && len == offset.min(size)).then_some(TokenWindow { rows, size, offset })
    }
}

impl Cache for TokenWindow {
    fn kind(&self) -> &'static str {
        "TokenWindow"
    }
    fn offset(&self) -> i32 {
        self.offset
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        self.rows.iter().for_each(f);
    }
    fn nbytes_at(&self, n: i32) -> usize {
        let row = |r: &Array| r.nbytes() / r.dim(1).max(1) as usize;
        self.rows.as_ref().map_or(0, row) * n.clamp(0, self.size) as usize
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        self.rows = self.rows.take().map(|r| take_rows(&r, rows));
        Ok(())
    }
    fn state(&self) -> State {
        let rows = self.rows.clone().map_or(State::None, State::Array);
        State::List(vec![rows, State::None, State::Int(self.offset.into()), State::Int(self.size.into())])
    }
}
