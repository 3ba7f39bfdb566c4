//! Keys and values joined anew with each call (`ConcatenateKVCache`).

use super::kv::pad_left;
use super::padding::Padding;
use super::{Cache, Kv, Mark, MaskKey, Position, State, nbytes_of, take_rows};
use crate::{Error, Result};
use mlx::fast::Mask;
use mlx::{self as mx, Array};

/// Keys and values of every token seen, without spare room: exact in bytes, a copy of all with each update. For few,
/// large blocks.
#[derive(Debug, Default, Clone)]
pub struct ConcatenateKvCache {
    held: Option<(Array, Array)>,
    padding: Padding,
}

impl ConcatenateKvCache {
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn from_state(s: &State) -> Option<Self> {
        let held = match (s.item(0), s.item(1)) {
            (Some(State::Array(k)), Some(State::Array(v)))
                if k.ndim() == 4 && v.ndim() == 4 && k.dim(2) == v.dim(2) =>
            {
                Some((k.clone(), v.clone()))
            }
            (None | Some(State::None), None | Some(State::None)) => None,
            _ => return None,
        };
        Some(ConcatenateKvCache { held, padding: Padding::default() })
    }
}

impl Cache for ConcatenateKvCache {
    fn kind(&self) -> &'static str {
        "ConcatenateKVCache"
    }
    fn offset(&self) -> i32 {
        self.held.as_ref().map_or(0, |(k, _)| k.dim(2))
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        self.held.iter().flat_map(|(k, v)| [k, v]).for_each(f);
    }
    fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.offset());
        let left = self.offset() - n;
        let cut = |a: Array| mx::contiguous(&a.slice_axis(2, 0..left));
        self.held = self.held.take().filter(|_| left > 0).map(|(k, v)| (cut(k), cut(v)));
        n
    }
    fn is_trimmable(&self) -> bool {
        true
    }
    fn mark(&self) -> Mark {
        Mark::Offset(self.offset())
    }
    fn as_kv(&mut self) -> Option<&mut dyn Kv> {
        Some(self)
    }
    fn nbytes_at(&self, n: i32) -> usize {
        nbytes_of(self.held.iter().flat_map(|(k, v)| [k, v]), n)
    }
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let (mine, theirs) = (self.rows(), other.rows());
        let Some(o) = other.as_any_mut().downcast_mut::<ConcatenateKvCache>() else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        let len = self.offset().max(o.offset());
        let (da, db) = (len - self.offset(), len - o.offset());
        let (Some((k, v)), Some((k2, v2))) = (&self.held, &o.held) else {
            return Err(Error::Request("an empty cache cannot join a filled one".into()));
        };
        let joined = |x: &Array, y: &Array| mx::concatenate(&[pad_left(x, da), pad_left(y, db)], 0);
        self.held = Some((joined(k, k2), joined(v, v2)));
        self.padding = Padding::join((self.padding.of(mine), da), (o.padding.of(theirs), db));
        Ok(())
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        let (common, padding) = self.padding.keep(self.rows(), rows);
        let cut = |a: &Array| take_rows(&a.slice_axis(2, common..a.dim(2)), rows);
        self.held = self.held.as_ref().map(|(k, v)| (cut(k), cut(v)));
        self.padding = padding;
        Ok(())
    }
    fn state(&self) -> State {
        State::of_buffers(self.held.as_ref(), [])
    }
}

impl Kv for ConcatenateKvCache {
    fn position(&self) -> Position {
        self.padding.position(self.offset())
    }
    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        let all = match self.held.take() {
            None => (k, v),
            Some((keys, values)) => (mx::concatenate(&[keys, k], 2), mx::concatenate(&[values, v], 2)),
        };
        self.held = Some(all.clone());
        all
    }
    fn fetch(&self) -> Option<(Array, Array)> {
        self.held.clone()
    }
    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        self.padding.mask(self.offset(), n, window, as_array)
    }
    fn mask_key(&self) -> MaskKey {
        self.padding.key("kv", self.offset(), 0, 0)
    }
}
