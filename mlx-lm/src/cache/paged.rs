//! Keys and values in pages that copies of a cache share.

use super::kv::pad_left;
use super::padding::Padding;
use super::partial::Partial;
use super::{Attend, Cache, Decode, Kv, Mark, MaskKey, Position, State, nbytes_of, take_rows, whole};
use crate::{Error, Result};
use mlx::fast::{DecodeAttention, KvBuffers, Layer, Mask, Place};
use mlx::{self as mx, Array, Dtype};

/// Keys and values [B, Hkv, T, D] of the tokens of one page.
#[derive(Debug, Clone)]
pub struct Page {
    pub keys: Array,
    pub values: Array,
}

/// Keys and values of every token seen: full pages that never change, and one that new tokens are written into.
///
/// A clone (a fork, a snapshot, a shared prefix) costs a handle per page; only the open page is copied, by whoever
/// writes to it first. Attention goes over the pages one by one and joins their softmaxes, so history is never
/// concatenated.
#[derive(Debug, Clone)]
pub struct PagedKvCache {
    size: i32,
    pages: Vec<Page>,
    open: Option<Page>,
    /// The open page while steps of one kernel write it; `open` is then empty.
    live: Option<KvBuffers>,
    /// Tokens in the open page, less than `size`.
    filled: i32,
    padding: Padding,
    /// The padding as a decode kernel reads it.
    starts: Option<Array>,
}

impl PagedKvCache {
    /// Tokens of a page when nothing is said.
    pub const PAGE: i32 = 256;

    /// An empty cache with pages of `size` tokens; a size below 1 counts as 1.
    pub fn new(size: i32) -> Self {
        let (pages, padding) = (Vec::new(), Padding::default());
        PagedKvCache { size: size.max(1), pages, open: None, live: None, filled: 0, padding, starts: None }
    }

    /// A cache that starts with these full pages, as another cache holds them.
    ///
    /// # Errors
    /// Pages of different lengths or shapes.
    pub fn from_pages(pages: Vec<Page>) -> Result<Self> {
        let size = pages.first().map_or(Self::PAGE, |p| if p.keys.ndim() == 4 { p.keys.dim(2) } else { 0 });
        let like = |a: &Array, b: &Array| a.shape() == b.shape() && a.dtype() == b.dtype();
        let fits = |p: &Page| {
            like(&p.keys, &pages[0].keys)
                && like(&p.values, &pages[0].values)
                && p.values.ndim() == 4
                && p.values.dim(2) == size
        };
        if size < 1 || !pages.iter().all(fits) {
            return Err(Error::Request("pages of a cache must be [B, H, T, D] of one shape".into()));
        }
        Ok(PagedKvCache { pages, ..Self::new(size) })
    }

    /// The pages that are full: any other cache may start with some of the first of them.
    pub fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Tokens of a page.
    pub fn page_size(&self) -> i32 {
        self.size
    }

    /// Keys and values cut into pages.
    fn cut(size: i32, kv: Option<(Array, Array)>, padding: Padding) -> Self {
        let mut new = PagedKvCache { padding, ..Self::new(size) };
        if let Some((k, v)) = kv {
            new.append(&k, &v);
        }
        new
    }

    /// The open page, for reading.
    fn open_page(&self) -> Option<Page> {
        let written = |live: &KvBuffers| {
            let (keys, values) = live.arrays();
            Page { keys, values }
        };
        self.live.as_ref().map(written).or_else(|| self.open.clone())
    }

    /// The open page, for writing by array ops.
    fn take_open(&mut self) -> Option<Page> {
        let Some(live) = self.live.take() else { return self.open.take() };
        let (keys, values) = live.into_arrays();
        Some(Page { keys, values })
    }

    fn append(&mut self, k: &Array, v: &Array) {
        let (mut at, n) = (0, k.dim(2));
        while at < n {
            let end = n.min(at + self.size - self.filled);
            let part = |a: &Array| if end - at == n { a.clone() } else { a.slice_axis(2, at..end) };
            let (keys, values) = (part(k), part(v));
            if end - at == self.size {
                self.pages.push(Page { keys: mx::contiguous(&keys), values: mx::contiguous(&values) });
            } else {
                let size = self.size;
                let room = |a: &Array| {
                    let [b, h, _, d] = a.dims();
                    mx::zeros([b, h, size, d], a.dtype())
                };
                let mut page = self.take_open().unwrap_or_else(|| Page { keys: room(k), values: room(v) });
                let place = self.filled..self.filled + end - at;
                page.keys.update_axis(2, place.clone(), &keys);
                page.values.update_axis(2, place.clone(), &values);
                self.filled = place.end % self.size;
                match self.filled {
                    0 => self.pages.push(page),
                    _ => self.open = Some(page),
                }
            }
            at = end;
        }
    }

    /// What is written of each page, the first first.
    fn visible(&self) -> impl Iterator<Item = Page> + '_ {
        let written = |a: &Array| a.slice_axis(2, 0..self.filled);
        let open = self.open_page().map(move |p| Page { keys: written(&p.keys), values: written(&p.values) });
        self.pages.iter().cloned().chain(open)
    }
}

impl Cache for PagedKvCache {
    /// Files hold the pages joined.
    fn kind(&self) -> &'static str {
        "KVCache"
    }
    fn offset(&self) -> i32 {
        self.pages.len() as i32 * self.size + self.filled
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        self.pages.iter().chain(&self.open_page()).flat_map(|p| [&p.keys, &p.values]).for_each(f);
    }
    fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.offset());
        let left = self.offset() - n;
        let (full, rest) = ((left / self.size) as usize, left % self.size);
        if full < self.pages.len() {
            (self.open, self.live) = (Some(self.pages[full].clone()), None);
            self.pages.truncate(full);
        }
        self.open = self.take_open().filter(|_| rest > 0);
        self.filled = rest;
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
    fn as_decode(&mut self) -> Option<&mut dyn Decode> {
        Some(self)
    }
    fn rows(&self) -> usize {
        let first = self.pages.first().or(self.open.as_ref()).map(|p| p.keys.dim(0));
        self.live.as_ref().map(KvBuffers::rows).or(first).unwrap_or(1) as usize
    }
    fn nbytes_at(&self, n: i32) -> usize {
        nbytes_of(
            self.pages.iter().chain(&self.open_page()).take(1).flat_map(|p| [&p.keys, &p.values]),
            whole(n, self.size),
        )
    }
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let (mine, theirs) = (self.rows(), other.rows());
        let Some(o) = other.as_any_mut().downcast_mut::<PagedKvCache>() else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        let (Some((k, v)), Some((k2, v2))) = (self.fetch(), o.fetch()) else {
            return Err(Error::Request("an empty cache cannot join a filled one".into()));
        };
        let len = k.dim(2).max(k2.dim(2));
        let (da, db) = (len - k.dim(2), len - k2.dim(2));
        let joined = |x: &Array, y: &Array| mx::concatenate(&[pad_left(x, da), pad_left(y, db)], 0);
        let padding = Padding::join((self.padding.of(mine), da), (o.padding.of(theirs), db));
        *self = Self::cut(self.size, Some((joined(&k, &k2), joined(&v, &v2))), padding);
        Ok(())
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        let (common, padding) = self.padding.keep(self.rows(), rows);
        let kept = |a: &Array| take_rows(&a.slice_axis(2, common..a.dim(2)), rows);
        let kv = self.fetch().map(|(k, v)| (kept(&k), kept(&v)));
        *self = Self::cut(self.size, kv, padding);
        Ok(())
    }
    fn state(&self) -> State {
        State::of_buffers(self.fetch().as_ref(), [self.offset()])
    }
}

impl Decode for PagedKvCache {
    fn is_decodable(&self, rows: i32, dtype: Dtype, a: &DecodeAttention<'_>) -> bool {
        let fits = |b: &KvBuffers| b.rows() == rows && b.is_pages_supported(self.pages.len(), dtype, a);
        match (&self.live, self.pages.last().or(self.open.as_ref())) {
            (Some(live), _) => fits(live),
            (None, Some(p)) => fits(&KvBuffers::new(p.keys.clone(), p.values.clone())),
            (None, None) => false,
        }
    }

    fn decode(&mut self, x: &Array, before: Layer<'_>, a: &DecodeAttention<'_>, after: Layer<'_>) -> Array {
        let mut live = self.live.take().unwrap_or_else(|| {
            let room = || mx::zeros([x.dim(0), a.kv_heads, self.size, a.head_dim], x.dtype());
            let page = self.open.take().unwrap_or_else(|| Page { keys: room(), values: room() });
            KvBuffers::new(page.keys, page.values)
        });
        if self.starts.is_none() {
            self.starts = self.padding.starts();
        }
        let slot = self.offset();
        let place = match &self.starts {
            None => Place::At(slot),
            Some(starts) => Place::Padded(slot, starts),
        };
        let full: Vec<_> = self.pages.iter().map(|p| (&p.keys, &p.values)).collect();
        let qkv = mx::fast::linear(x, before.parts, before.around);
        let o = live.attend_pages(&qkv, &full, place, a);
        self.filled = (self.filled + 1) % self.size;
        if self.filled == 0 {
            let (keys, values) = live.into_arrays();
            self.pages.push(Page { keys, values });
        } else {
            self.live = Some(live);
        }
        mx::fast::linear(&o, after.parts, after.around)
    }
}

impl Kv for PagedKvCache {
    fn position(&self) -> Position {
        self.padding.position(self.offset())
    }
    /// Joins all pages: mixers that attend by [`attend`](Kv::attend) never need it.
    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        self.append(&k, &v);
        self.fetch().unwrap_or((k, v))
    }
    fn fetch(&self) -> Option<(Array, Array)> {
        let (keys, values): (Vec<Array>, Vec<Array>) = self.visible().map(|p| (p.keys, p.values)).unzip();
        (!keys.is_empty()).then(|| (mx::concatenate(&keys, 2), mx::concatenate(&values, 2)))
    }
    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        self.padding.mask(self.offset(), n, window, as_array)
    }
    fn mask_key(&self) -> MaskKey {
        self.padding.key("kv", self.offset(), 0, 0)
    }

    fn attend(&mut self, q: &Array, k: Array, v: Array, a: Attend<'_>) -> Array {
        let before = self.offset();
        self.append(&k, &v);
        let mut sum = Partial::new(q, k.dim(1), a);
        let mut at = 0;
        for page in self.visible() {
            sum.add(&page.keys, &page.values, at, before);
            at += page.keys.dim(2);
        }
        sum.finish()
    }
}
