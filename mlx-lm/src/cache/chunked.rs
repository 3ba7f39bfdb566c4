//! Keys and values of attention within chunks: a query sees only what lies in its own chunk of positions.

use super::kv::STEP;
use super::{Cache, Kv, MaskKey, Position, State, mask::chunk_mask, nbytes_of, take_rows};
use crate::Result;
use mlx::fast::Mask;
use mlx::{self as mx, Array};

/// Keys and values since the start of the current chunk, or somewhat earlier (`ChunkedKVCache`).
///
/// Tokens are written in place; what lies before the chunk of the next token is dropped when the buffer is full.
#[derive(Debug, Clone)]
pub struct ChunkedKvCache {
    buffers: Option<(Array, Array)>,
    size: i32,
    /// True position of the next token.
    offset: i32,
    /// True position of the buffer's first slot.
    start: i32,
}

impl ChunkedKvCache {
    /// A cache for chunks of `size` tokens; a size below 1 counts as 1.
    pub fn new(size: i32) -> Self {
        ChunkedKvCache { buffers: None, size: size.max(1), offset: 0, start: 0 }
    }

    /// Where the chunk of the next token starts: no later query sees anything before.
    fn chunk_start(&self) -> i32 {
        self.offset / self.size * self.size
    }

    /// Buffers with room for the new tokens.
    fn reserve(&mut self, k: &Array, v: &Array) -> (Array, Array) {
        let new = k.dim(2);
        let steps = (STEP + new - 1) / STEP * STEP;
        let fresh = |a: &Array| {
            let [b, h, _, d] = a.dims();
            mx::zeros([b, h, steps, d], a.dtype())
        };
        let (first, next) = (self.chunk_start(), self.offset);
        match self.buffers.take() {
            None => {
                self.start = next;
                (fresh(k), fresh(v))
            }
            Some((keys, values)) if next + new - self.start <= keys.dim(2) => (keys, values),
            Some((keys, values)) => {
                let (from, to) = (first - self.start, next - self.start);
                self.start = first;
                let grow = |old: Array, more: Array| mx::concatenate(&[old.slice_axis(2, from..to), more], 2);
                (grow(keys, fresh(k)), grow(values, fresh(v)))
            }
        }
    }
}

impl Cache for ChunkedKvCache {
    fn kind(&self) -> &'static str {
        "ChunkedKVCache"
    }
    fn offset(&self) -> i32 {
        self.offset
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        if let Some((k, v)) = &self.buffers {
            f(k);
            f(v);
        }
    }
    fn trim(&mut self, n: i32) -> i32 {
        if !self.is_trimmable() {
            return 0;
        }
        let n = n.clamp(0, self.offset);
        self.offset -= n;
        n
    }
    /// As long as nothing was dropped.
    fn is_trimmable(&self) -> bool {
        self.start == 0
    }
    /// Of a sequence that came token by token.
    fn nbytes_at(&self, n: i32) -> usize {
        let (mut start, mut room) = (0, STEP);
        while start + room < n {
            let (full, first) = (start + room, (start + room) / self.size * self.size);
            (start, room) = (first, full - first + STEP);
        }
        nbytes_of(self.buffers.iter().flat_map(|(k, v)| [k, v]), room)
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        self.buffers = self.buffers.take().map(|(k, v)| (take_rows(&k, rows), take_rows(&v, rows)));
        Ok(())
    }
    fn state(&self) -> State {
        State::of_buffers(self.buffers.as_ref(), [self.offset, self.size, self.start])
    }
    fn as_kv(&mut self) -> Option<&mut dyn Kv> {
        Some(self)
    }
}

impl Kv for ChunkedKvCache {
    fn position(&self) -> Position {
        Position::At(self.offset)
    }

    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        let first = self.chunk_start();
        let (mut keys, mut values) = self.reserve(&k, &v);
        let (at, end) = (self.offset - self.start, self.offset + k.dim(2) - self.start);
        keys.update_axis(2, at..end, &k);
        values.update_axis(2, at..end, &v);
        let from = first - self.start;
        let seen = (keys.slice_axis(2, from..end), values.slice_axis(2, from..end));
        self.buffers = Some((keys, values));
        self.offset += k.dim(2);
        seen
    }

    fn fetch(&self) -> Option<(Array, Array)> {
        let (k, v) = self.buffers.as_ref()?;
        let seen = self.chunk_start() - self.start..self.offset - self.start;
        Some((k.slice_axis(2, seen.clone()), v.slice_axis(2, seen)))
    }

    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        let before = self.offset - self.chunk_start();
        let one_chunk = before + n <= self.size;
        if one_chunk && window.is_none() && !as_array {
            return if n == 1 { Mask::None } else { Mask::Causal };
        }
        Mask::Array(chunk_mask(n, before, self.size, window))
    }

    fn mask_key(&self) -> MaskKey {
        MaskKey { kind: "chunked", offset: self.offset, size: self.size, head: 0, padding: 0 }
    }
}

impl ChunkedKvCache {
    pub(super) fn from_state(s: &State) -> Option<ChunkedKvCache> {
        let int = |i: usize| i32::try_from(s.item(i)?.int()?).ok();
        let (offset, size, start) = (int(2)?, int(3)?, int(4)?);
        let buffers = match (s.item(0)?.array(), s.item(1)?.array()) {
            (Some(k), Some(v)) if k.ndim() == 4 && v.ndim() == 4 && k.dim(2) == v.dim(2) => {
                Some((k.clone(), v.clone()))
            }
            (None, None) if offset == 0 => None,
            _ => return None,
        };
        let len = buffers.as_ref().map_or(0, |(k, _): &(Array, Array)| k.dim(2));
        let cache = ChunkedKvCache { buffers, size, offset, start };
        let sane = size > 0 && offset >= 0 && start >= 0 && start <= cache.offset / size * size;
        (sane && offset - start <= len).then_some(cache)
    }
}
