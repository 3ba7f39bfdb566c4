//! All keys and values, in buffers that grow by whole steps.

use super::padding::Padding;
use super::parts::Form;
use super::{Cache, Decode, Kv, Mark, MaskKey, Position, QuantizedKvCache, State, in_steps, nbytes_of, take_rows};
use crate::{Error, Result};
use mlx::fast::{Columns, DecodeAttention, KvBuffers, LatentAttention, Layer, Mask, Place};
use mlx::{self as mx, Array, Dtype};

/// Tokens by which buffers grow.
pub(super) const STEP: i32 = 256;

/// Keys and values of every token seen (`KVCache`): buffers [B, Hkv, T, D] with T a multiple of 256.
///
/// Values of no width make it a cache of one tensor per token (latents without a rotated part, an indexer's keys).
/// Files then hold zeros as wide as the keys, as Python mlx-lm's do; these go with the next update.
#[derive(Debug, Default, Clone)]
pub struct KvCache {
    buffers: Option<KvBuffers>,
    /// Tokens in the buffers, padding included.
    offset: i32,
    padding: Padding,
    /// The padding as a decode kernel reads it.
    starts: Option<Array>,
}

/// `a` [B, H, T, D] with `n` zeros before its T tokens.
pub(super) fn pad_left(a: &Array, n: i32) -> Array {
    if n == 0 {
        return a.clone();
    }
    let [b, h, _, d] = a.dims();
    mx::concatenate(&[mx::zeros([b, h, n, d], a.dtype()), a.clone()], 2)
}

impl KvCache {
    pub fn new() -> Self {
        Self::default()
    }

    /// Buffers with room for the new tokens, for writing by array ops.
    fn reserve(&mut self, k: &Array, v: &Array) -> (Array, Array) {
        let new = k.dim(2);
        let steps = (STEP + new - 1) / STEP * STEP;
        let fresh = |a: &Array| {
            let [b, h, _, d] = a.dims();
            mx::zeros([b, h, steps, d], a.dtype())
        };
        let Some(buffers) = self.buffers.take() else { return (fresh(k), fresh(v)) };
        let room = self.offset + new <= buffers.capacity();
        let (keys, mut values) = buffers.into_arrays();
        if v.dim(-1) == 0 {
            values = values.slice_axis(-1, 0..0);
        }
        if room {
            return (keys, values);
        }
        let grow = |old: Array, more: Array| {
            // only whole steps stay aligned: an unfinished one is cut first
            let old = if self.offset % STEP == 0 { old } else { old.slice_axis(2, 0..self.offset) };
            mx::concatenate(&[old, more], 2)
        };
        (grow(keys, fresh(k)), grow(values, fresh(v)))
    }
}

impl KvCache {
    /// Buffers with room for one more token, and its place.
    fn next_slot(&mut self, rows: i32, heads: i32, widths: [i32; 2], dtype: Dtype) -> (&mut KvBuffers, Place<'_>) {
        let room = self.buffers.as_ref().is_some_and(|b| self.offset < b.capacity());
        if !room {
            let [k, v] = widths.map(|d| mx::zeros([rows, heads, 1, d], dtype));
            let (keys, values) = self.reserve(&k, &v);
            self.buffers = Some(KvBuffers::new(keys, values));
        }
        if self.starts.is_none() {
            self.starts = self.padding.starts();
        }
        let Some(buffers) = &mut self.buffers else { unreachable!("reserved above") };
        let place = match &self.starts {
            None => Place::At(self.offset),
            Some(starts) => Place::Padded(self.offset, starts),
        };
        (buffers, place)
    }
}

impl Decode for KvCache {
    fn is_decodable(&self, rows: i32, dtype: Dtype, a: &DecodeAttention<'_>) -> bool {
        self.buffers.as_ref().is_some_and(|b| b.rows() == rows && b.is_supported(dtype, a))
    }

    fn decode(&mut self, x: &Array, before: Layer<'_>, a: &DecodeAttention<'_>, after: Layer<'_>) -> Array {
        let (buffers, place) = self.next_slot(x.dim(0), a.kv_heads, [a.head_dim; 2], x.dtype());
        let o = buffers.attend_between(x, before, place, a, after);
        self.offset += 1;
        o
    }

    fn is_latent_decodable(&self, rows: i32, dtype: Dtype, a: &LatentAttention<'_>) -> bool {
        self.buffers.as_ref().is_some_and(|b| b.rows() == rows && b.is_latent_supported(dtype, a))
    }

    fn decode_latent(
        &mut self,
        q: Columns<'_>,
        q_latent: &Array,
        kv: Columns<'_>,
        a: &LatentAttention<'_>,
    ) -> Option<Array> {
        let (buffers, place) = self.next_slot(q.x.dim(0), 1, [a.rank, a.rope], q.x.dtype());
        let o = buffers.attend_latent(q, q_latent, kv, place, a)?;
        self.offset += 1;
        Some(o)
    }
}

/// The slots of a buffer that are written.
fn visible(buffer: &Array, offset: i32) -> Array {
    if offset < buffer.dim(2) { buffer.slice_axis(2, 0..offset) } else { buffer.clone() }
}

impl Cache for KvCache {
    fn kind(&self) -> &'static str {
        "KVCache"
    }
    fn offset(&self) -> i32 {
        self.offset
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        if let Some((k, v)) = self.buffers.as_ref().map(KvBuffers::arrays) {
            f(&k);
            f(&v);
        }
    }
    fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.offset);
        self.offset -= n;
        if let Some(b) = &mut self.buffers {
            b.rewind();
        }
        n
    }
    fn is_trimmable(&self) -> bool {
        true
    }
    fn mark(&self) -> Mark {
        Mark::Offset(self.offset())
    }
    fn rows(&self) -> usize {
        self.buffers.as_ref().map_or(1, |b| b.rows() as usize)
    }
    fn nbytes(&self) -> usize {
        self.buffers.as_ref().map_or(0, KvBuffers::nbytes)
    }
    fn nbytes_at(&self, n: i32) -> usize {
        self.buffers.as_ref().map_or(0, |b| nbytes_of(<[Array; 2]>::from(b.arrays()).iter(), in_steps(n)))
    }
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let (mine, theirs) = (self.rows(), other.rows());
        let Some(o) = other.as_any_mut().downcast_mut::<KvCache>() else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        let (a, b) = (self.padding.of(mine), o.padding.of(theirs));
        let len = self.offset.max(o.offset);
        let (da, db) = (len - self.offset, len - o.offset);
        let (x, y) = (self.fetch(), o.fetch());
        let joined = |x: &Array, y: &Array| mx::concatenate(&[pad_left(x, da), pad_left(y, db)], 0);
        self.buffers = match (x, y) {
            (None, None) => None,
            (Some((k, v)), Some((k2, v2))) => Some(KvBuffers::new(joined(&k, &k2), joined(&v, &v2))),
            _ => return Err(Error::Request("an empty cache cannot join a filled one".into())),
        };
        self.offset = len;
        self.starts = None;
        self.padding = Padding::join((a, da), (b, db));
        Ok(())
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        // padding that all rows share is cut
        let (common, padding) = self.padding.keep(self.rows(), rows);
        let cut = |a: &Array| take_rows(&a.slice_axis(2, common..a.dim(2)), rows);
        self.buffers = self.fetch().map(|(k, v)| KvBuffers::new(cut(&k), cut(&v)));
        self.offset -= common;
        self.starts = None;
        self.padding = padding;
        Ok(())
    }
    fn state(&self) -> State {
        let mut buffers = self.buffers.as_ref().map(KvBuffers::arrays);
        if let Some((k, v)) = buffers.as_mut().filter(|(_, v)| v.dim(-1) == 0) {
            *v = mx::zeros_like(k);
        }
        State::of_buffers(buffers.as_ref(), [self.offset])
    }
    fn as_kv(&mut self) -> Option<&mut dyn Kv> {
        Some(self)
    }
    fn as_decode(&mut self) -> Option<&mut dyn Decode> {
        Some(self)
    }
}

impl Kv for KvCache {
    fn position(&self) -> Position {
        self.padding.position(self.offset)
    }

    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        let (mut keys, mut values) = self.reserve(&k, &v);
        let (start, end) = (self.offset, self.offset + k.dim(2));
        keys.update_axis(2, start..end, &k);
        values.update_axis(2, start..end, &v);
        let seen = (visible(&keys, end), visible(&values, end));
        self.buffers = Some(KvBuffers::new(keys, values));
        self.offset = end;
        seen
    }

    fn fetch(&self) -> Option<(Array, Array)> {
        let (k, v) = self.buffers.as_ref()?.arrays();
        Some((visible(&k, self.offset), visible(&v, self.offset)))
    }

    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        self.padding.mask(self.offset, n, window, as_array)
    }

    fn mask_key(&self) -> MaskKey {
        self.padding.key("kv", self.offset, 0, 0)
    }
}

impl KvCache {
    /// The same keys and values, packed (`to_quantized`).
    ///
    /// # Errors
    /// Bits or a group size that MLX does not pack, a head dimension that does not divide into groups.
    pub fn to_quantized(&self, group_size: i32, key_bits: i32, value_bits: i32) -> Result<QuantizedKvCache> {
        let form = Form::packed(group_size, key_bits, value_bits)?;
        QuantizedKvCache::from_dense(self.fetch(), self.offset, self.padding.clone(), form)
    }

    pub(super) fn from_state(s: &State) -> Option<KvCache> {
        let offset = s.item(2)?.int()? as i32;
        let buffers = match (s.item(0)?.array(), s.item(1)?.array()) {
            (Some(k), Some(v))
                if k.ndim() == 4 && v.ndim() == 4 && k.dim(2) == v.dim(2) && (0..=k.dim(2)).contains(&offset) =>
            {
                Some(KvBuffers::new(k.clone(), v.clone()))
            }
            (None, None) if offset == 0 => None,
            _ => return None,
        };
        Some(KvCache { buffers, offset, padding: Padding::default(), starts: None })
    }
}
