//! All keys and values, in buffers that grow by whole steps.

use super::{Cache, Kv, MaskKey, Position, causal_mask};
use mlx::fast::Mask;
use mlx::{self as mx, Array};
use std::any::Any;

/// Tokens by which buffers grow.
pub(super) const STEP: i32 = 256;

/// Keys and values of every token seen (`KVCache`): buffers [B, Hkv, T, D] with T a multiple of 256.
#[derive(Debug, Default, Clone)]
pub struct KvCache {
    buffers: Option<(Array, Array)>,
    offset: i32,
}

impl KvCache {
    pub fn new() -> Self {
        Self::default()
    }

    fn reserve(&mut self, k: &Array, v: &Array) {
        let new = k.dim(2);
        let steps = (STEP + new - 1) / STEP * STEP;
        let fresh = |a: &Array| {
            let [b, h, _, d] = a.dims();
            mx::zeros([b, h, steps, d], a.dtype())
        };
        self.buffers = Some(match self.buffers.take() {
            None => (fresh(k), fresh(v)),
            Some((keys, values)) if self.offset + new <= keys.dim(2) => (keys, values),
            Some((keys, values)) => {
                let grow = |old: Array, more: Array| {
                    // only whole steps stay aligned: an unfinished one is cut first
                    let old = if self.offset % STEP == 0 { old } else { old.slice_axis(2, 0..self.offset) };
                    mx::concatenate(&[old, more], 2)
                };
                (grow(keys, fresh(k)), grow(values, fresh(v)))
            }
        });
    }
}

impl Cache for KvCache {
    fn kind(&self) -> &'static str {
        "KVCache"
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
        let n = n.clamp(0, self.offset);
        self.offset -= n;
        n
    }
    fn is_trimmable(&self) -> bool {
        true
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

impl Kv for KvCache {
    fn position(&self) -> Position {
        Position::At(self.offset)
    }

    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        self.reserve(&k, &v);
        let (start, end) = (self.offset, self.offset + k.dim(2));
        if let Some((keys, values)) = &mut self.buffers {
            keys.update_axis(2, start..end, &k);
            values.update_axis(2, start..end, &v);
        }
        self.offset = end;
        self.fetch().unwrap_or((k, v))
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
        let needs_array = window.is_some_and(|w| self.offset + n > w);
        match n {
            _ if as_array || (needs_array && (n > 1 || window.is_some())) => {
                Mask::Array(causal_mask(n, self.offset, window, None))
            }
            1 => Mask::None,
            _ => Mask::Causal,
        }
    }

    fn mask_key(&self) -> MaskKey {
        MaskKey { kind: "kv", offset: self.offset, size: 0, head: 0, padding: 0 }
    }
}
