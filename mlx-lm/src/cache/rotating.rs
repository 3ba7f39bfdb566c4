//! The last keys and values only, in a ring.

use super::kv::STEP;
use super::{Cache, Kv, MaskKey, Position, causal_mask};
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
}

impl RotatingKvCache {
    pub fn new(size: i32, keep: i32) -> Self {
        RotatingKvCache { buffers: None, size, keep, offset: 0, head: 0 }
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
        Position::At(self.offset)
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
        MaskKey { kind: "rotating", offset: self.offset, size: self.size, head: self.head, padding: 0 }
    }
}
