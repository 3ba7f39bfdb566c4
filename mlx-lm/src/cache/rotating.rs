//! The last keys and values only, in a ring.

use super::kv::{STEP, pad_left};
use super::padding::Padding;
use super::{Cache, Kv, MaskKey, Position, State, causal_mask, take_rows};
use crate::{Error, Result};
use mlx::fast::Mask;
use mlx::{self as mx, Array};
use std::any::Any;

/// Keys and values of the last `size` tokens, the first `keep` for ever (`RotatingKVCache`).
///
/// One token at a time is written in place around the ring; several at once are appended in temporal order, so that
/// each of them still sees `size` tokens: the buffer may then hold `size + L - 1`.
#[derive(Debug, Clone)]
pub struct RotatingKvCache {
    buffers: Option<(Array, Array)>,
    size: i32,
    keep: i32,
    /// True position of the next token.
    offset: i32,
    /// Where the next token is written.
    head: i32,
    /// Of rows in a batch: how far each row's position lies behind `offset`. What a row has not filled is hidden.
    padding: Padding,
}

impl RotatingKvCache {
    pub fn new(size: i32, keep: i32) -> Self {
        RotatingKvCache { buffers: None, size, keep, offset: 0, head: 0, padding: Padding::default() }
    }

    /// Everything held, oldest first, at most `size` tokens.
    fn ordered(&self) -> Option<(Array, Array)> {
        let (k, v) = self.buffers.as_ref()?;
        let order = |a: &Array| Self::in_order(self.keep, self.head, self.offset, a.clone());
        let cut = |a: Array| {
            let n = a.dim(2) - self.size;
            Self::cut(self.keep, n, a)
        };
        Some((cut(order(k)), cut(order(v))))
    }

    /// Bool [B, 1, n, len + n] of a padded batch: keys of the ring in temporal order, then the new ones.
    fn padded_mask(&self, n: i32, window: i32, len: i32) -> Array {
        let mut mask = causal_mask(n, len, Some(window), None);
        if let Some(p) = self.padding.array() {
            // a row's first token stands `offset - padding` tokens back, or has been overwritten
            let filled = (self.offset - p).minimum(len);
            let first = (len - filled).reshape([-1, 1, 1, 1]);
            mask = mask.logical_and(first.le(mx::arange(0, len + n, 1, None)));
        }
        mask
    }

    fn len(&self) -> i32 {
        self.buffers.as_ref().map_or(0, |(k, _)| k.dim(2))
    }

    fn each_buffer(&mut self, f: impl Fn(Array) -> Array) {
        self.buffers = self.buffers.take().map(|(k, v)| (f(k), f(v)));
    }

    /// Drops `n` tokens after the kept ones.
    fn cut(keep: i32, n: i32, a: Array) -> Array {
        match n {
            n if n <= 0 => a,
            n if keep == 0 => a.slice_axis(2, n..a.dim(2)),
            n => mx::concatenate(&[a.slice_axis(2, 0..keep), a.slice_axis(2, n + keep..a.dim(2))], 2),
        }
    }

    /// The buffer's tokens, oldest first.
    fn in_order(keep: i32, head: i32, offset: i32, a: Array) -> Array {
        let len = a.dim(2);
        if head == len {
            a
        } else if head < offset {
            let parts = [a.slice_axis(2, 0..keep), a.slice_axis(2, head..len), a.slice_axis(2, keep..head)];
            mx::concatenate(&parts, 2)
        } else {
            a.slice_axis(2, 0..head)
        }
    }

    fn append(&mut self, k: Array, v: Array) -> (Array, Array) {
        let n = k.dim(2);
        let (keep, head, offset) = (self.keep, self.head, self.offset);
        self.each_buffer(|a| Self::in_order(keep, head, offset, a));
        let cut = self.len() - self.size + 1;
        let joined = match self.buffers.take() {
            None => (k, v),
            Some((keys, values)) => (
                mx::concatenate(&[Self::cut(keep, cut, keys), k], 2),
                mx::concatenate(&[Self::cut(keep, cut, values), v], 2),
            ),
        };
        self.buffers = Some(joined.clone());
        self.offset += n;
        self.head = self.len();
        joined
    }

    fn write(&mut self, k: Array, v: Array) -> (Array, Array) {
        let len = self.len();
        if self.buffers.is_none() || (self.offset >= len && len < self.size) {
            let more = STEP.min(self.size - self.offset);
            let fresh = |a: &Array| {
                let [b, h, _, d] = a.dims();
                mx::zeros([b, h, more, d], a.dtype())
            };
            self.buffers = Some(match self.buffers.take() {
                None => (fresh(&k), fresh(&v)),
                Some((keys, values)) => {
                    (mx::concatenate(&[keys, fresh(&k)], 2), mx::concatenate(&[values, fresh(&v)], 2))
                }
            });
            self.head = self.offset;
        }
        let cut = self.len() - self.size;
        if cut > 0 {
            let keep = self.keep;
            self.each_buffer(|a| Self::cut(keep, cut, a));
            self.head = self.size;
        }
        if self.head == self.size {
            self.head = self.keep;
        }
        if let Some((keys, values)) = &mut self.buffers {
            keys.update_axis(2, self.head..self.head + 1, &k);
            values.update_axis(2, self.head..self.head + 1, &v);
        }
        self.offset += 1;
        self.head += 1;
        self.fetch().unwrap_or((k, v))
    }
}

impl Cache for RotatingKvCache {
    fn kind(&self) -> &'static str {
        "RotatingKVCache"
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
        self.head -= n;
        n
    }
    fn is_trimmable(&self) -> bool {
        self.offset < self.size
    }
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let (mine, theirs) = (self.rows(), other.rows());
        let Some(o) = other.as_any_mut().downcast_mut::<RotatingKvCache>().filter(|o| o.size == self.size) else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        if self.keep > 0 || o.keep > 0 {
            return Err(super::cannot_batch("RotatingKVCache with kept tokens"));
        }
        let (a, b) = (self.padding.of(mine), o.padding.of(theirs));
        let offset = self.offset.max(o.offset);
        let (da, db) = (offset - self.offset, offset - o.offset);
        let (Some((k, v)), Some((k2, v2))) = (self.ordered(), o.ordered()) else {
            return Err(Error::Request("an empty cache cannot join a filled one".into()));
        };
        let len = k.dim(2).max(k2.dim(2));
        let joined =
            |x: &Array, y: &Array| mx::concatenate(&[pad_left(x, len - x.dim(2)), pad_left(y, len - y.dim(2))], 0);
        self.buffers = Some((joined(&k, &k2), joined(&v, &v2)));
        (self.offset, self.head) = (offset, len);
        self.padding = Padding::join((a, da), (b, db));
        Ok(())
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        let (common, padding) = self.padding.keep(self.rows(), rows);
        let Some((k, v)) = self.ordered() else { return Ok(()) };
        // the longest row left decides how much of the ring is in use
        self.offset -= common;
        let len = k.dim(2).min(self.offset);
        let cut = |a: &Array| take_rows(&a.slice_axis(2, a.dim(2) - len..a.dim(2)), rows);
        self.buffers = Some((cut(&k), cut(&v)));
        self.head = len;
        self.padding = padding;
        Ok(())
    }
    fn state(&self) -> State {
        State::of_buffers(self.buffers.as_ref(), [self.offset, self.keep, self.size, self.head])
    }
    fn boxed_clone(&self) -> Box<dyn Cache> {
        Box::new(self.clone())
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn as_kv(&mut self) -> Option<&mut dyn Kv> {
        Some(self)
    }
}

impl Kv for RotatingKvCache {
    fn position(&self) -> Position {
        self.padding.position(self.offset)
    }

    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        if k.dim(2) == 1 { self.write(k, v) } else { self.append(k, v) }
    }

    fn fetch(&self) -> Option<(Array, Array)> {
        let (k, v) = self.buffers.as_ref()?;
        Some(if self.offset < k.dim(2) {
            (k.slice_axis(2, 0..self.offset), v.slice_axis(2, 0..self.offset))
        } else {
            (k.clone(), v.clone())
        })
    }

    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        if !self.padding.is_empty() {
            let window = window.unwrap_or(self.size).min(self.size);
            if n > 1 {
                return Mask::Array(self.padded_mask(n, window, self.offset.min(self.size - 1)));
            }
            // one token is written into the ring: temporal order, turned to where the ring stands
            let len = (self.offset + 1).min(self.size);
            let head = if self.head >= self.size { 0 } else { self.head };
            let ordered = self.padded_mask(1, window, len - 1);
            return Mask::Array(mx::roll(&ordered, [head + 1], [-1]));
        }
        if n > 1 {
            let window = window.unwrap_or(self.size);
            let offset = self.offset.min(self.size - 1);
            if offset + n > window || as_array {
                return Mask::Array(causal_mask(n, offset, Some(window), None));
            }
            return Mask::Causal;
        }
        match window {
            // the ring holds more than the window: hide the older ones, wherever they lie
            Some(w) if self.offset >= w && self.size > w => {
                let len = (self.offset + 1).min(self.size);
                let head = if self.head >= self.size { 0 } else { self.head };
                let seen = mx::arange(0, len, 1, None).ge(len - w);
                Mask::Array(mx::roll(&seen, [head + 1], ()))
            }
            _ => Mask::None,
        }
    }

    fn mask_key(&self) -> MaskKey {
        self.padding.key("rotating", self.offset, self.size, self.head)
    }
}

impl RotatingKvCache {
    pub(super) fn from_state(s: &State) -> Option<RotatingKvCache> {
        let int = |i: usize| s.item(i)?.int().map(|n| n as i32);
        let (offset, keep, size, head) = (int(2)?, int(3)?, int(4)?, int(5)?);
        let buffers = match (s.item(0)?.array(), s.item(1)?.array()) {
            (Some(k), Some(v)) if k.ndim() == 4 && v.ndim() == 4 && k.dim(2) == v.dim(2) => {
                Some((k.clone(), v.clone()))
            }
            (None, None) => None,
            _ => return None,
        };
        let len = buffers.as_ref().map_or(0, |(k, _): &(Array, Array)| k.dim(2));
        let sane = size > 0 && (0..size).contains(&keep) && (0..=len).contains(&head) && offset >= 0;
        sane.then(|| RotatingKvCache { buffers, size, keep, offset, head, padding: Padding::default() })
    }
}
