//! The last keys and values only, in a ring.

use super::kv::{STEP, pad_left};
use super::padding::Padding;
use super::parts::{Form, Parts};
use super::{Attend, Cache, Decode, Kv, MaskKey, Position, State, causal_mask, in_steps, nbytes_of, take_rows};
use crate::{Error, Result};
use mlx::fast::{DecodeAttention, KvBuffers, Layer, Mask, Place};
use mlx::{self as mx, Array, Dtype};

/// Keys and values of the last `size` tokens, the first `keep` for ever (`RotatingKVCache`).
///
/// One token at a time is written in place around the ring; several at once are appended in temporal order, so that
/// each of them still sees `size` tokens: the buffer may then hold `size + L - 1`.
#[derive(Debug, Clone)]
pub struct RotatingKvCache {
    buffers: Option<Parts>,
    /// Buffers that steps of one kernel write; `buffers` is then empty.
    live: Option<KvBuffers>,
    form: Form,
    dtype: Dtype,
    size: i32,
    keep: i32,
    /// True position of the next token.
    offset: i32,
    /// Where the next token is written.
    head: i32,
    /// Of rows in a batch: how far each row's position lies behind `offset`. What a row has not filled is hidden.
    padding: Padding,
    /// The padding as a decode kernel reads it.
    starts: Option<Array>,
}

impl RotatingKvCache {
    pub fn new(size: i32, keep: i32) -> Self {
        let (form, dtype) = (Form::Dense, Dtype::Float32);
        let padding = Padding::default();
        RotatingKvCache {
            buffers: None,
            live: None,
            form,
            dtype,
            size,
            keep,
            offset: 0,
            head: 0,
            padding,
            starts: None,
        }
    }

    /// The same tokens packed, and new ones as they come.
    ///
    /// # Errors
    /// Bits or a group size that MLX does not pack, a head dimension that does not divide into groups.
    pub fn to_quantized(&self, group_size: i32, key_bits: i32, value_bits: i32) -> Result<Self> {
        let form = Form::packed(group_size, key_bits, value_bits)?;
        let mut new = self.clone();
        if let Some(old) = new.take() {
            let (k, v) = self.form.dense(&old, self.dtype);
            form.check(&k, &v)?;
            new.buffers = Some(form.store(k, v));
        }
        Ok(RotatingKvCache { form, ..new })
    }

    /// Whether keys and values are packed.
    pub fn is_quantized(&self) -> bool {
        self.form != Form::Dense
    }

    /// Handles to the buffers, for reading.
    fn parts(&self) -> Option<Parts> {
        match &self.live {
            Some(live) => Some(Parts::of(live)),
            None => self.buffers.clone(),
        }
    }

    /// The buffers, for writing by array ops.
    fn take(&mut self) -> Option<Parts> {
        match self.live.take() {
            Some(live) => Some(Parts::from_live(live)),
            None => self.buffers.take(),
        }
    }

    /// Everything held, oldest first, at most `size` tokens.
    fn ordered(&self) -> Option<Parts> {
        let ordered = self.parts()?.map(|a| Self::in_order(self.keep, self.head, self.offset, a));
        let surplus = ordered.len() - self.size;
        Some(ordered.map(|a| Self::cut(self.keep, surplus, a)))
    }

    /// What is written of the buffers, as it lies there.
    fn seen(&self) -> Option<Parts> {
        self.parts().map(|b| b.slice(0..self.offset.min(b.len())))
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
        self.live.as_ref().map(KvBuffers::capacity).or(self.buffers.as_ref().map(Parts::len)).unwrap_or(0)
    }

    fn each_buffer(&mut self, f: impl Fn(Array) -> Array) {
        self.buffers = self.take().map(|b| b.map(f));
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

    fn append(&mut self, new: Parts) {
        let n = new.len();
        let (keep, head, offset) = (self.keep, self.head, self.offset);
        self.each_buffer(|a| Self::in_order(keep, head, offset, a));
        let cut = self.len() - self.size + 1;
        self.buffers = Some(match self.take() {
            None => new,
            Some(old) => old.map(|a| Self::cut(keep, cut, a)).then(&new),
        });
        self.offset += n;
        self.head = self.len();
    }

    /// Turns to where the next token goes, with a slot for it; `one` has the form of what is held.
    fn turn(&mut self, one: &Parts) {
        let len = self.len();
        if len == 0 || (self.offset >= len && len < self.size) {
            let fresh = one.zeros(STEP.min(self.size - self.offset));
            self.buffers = Some(match self.take() {
                None => fresh,
                Some(old) => old.then(&fresh),
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
    }

    fn write(&mut self, new: Parts) {
        self.turn(&new);
        self.buffers = self.take();
        if let Some(buffers) = &mut self.buffers {
            buffers.write(self.head, &new);
        }
        self.offset += 1;
        self.head += 1;
    }

    /// Takes new tokens in; returns what their queries may see.
    fn store(&mut self, k: Array, v: Array) -> Parts {
        self.dtype = k.dtype();
        let new = self.form.store(k, v);
        if new.len() == 1 {
            self.write(new)
        } else {
            self.append(new)
        }
        let Some(seen) = self.seen() else { unreachable!("stored above") };
        seen
    }
}

impl Cache for RotatingKvCache {
    fn kind(&self) -> &'static str {
        if self.is_quantized() { "QuantizedRotatingKVCache" } else { "RotatingKVCache" }
    }
    fn offset(&self) -> i32 {
        self.offset
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        self.parts().iter().flat_map(Parts::arrays).for_each(f);
    }
    fn trim(&mut self, n: i32) -> i32 {
        if !self.is_trimmable() {
            return 0;
        }
        let n = n.clamp(0, self.offset);
        self.offset -= n;
        self.head -= n;
        if let Some(live) = &mut self.live {
            live.rewind();
        }
        n
    }
    fn is_trimmable(&self) -> bool {
        self.offset < self.size
    }
    /// Of a sequence that was generated token by token: a prompt processed at once may hold more until the next token.
    fn nbytes_at(&self, n: i32) -> usize {
        nbytes_of(self.parts().iter().flat_map(Parts::arrays), in_steps(n).min(self.size))
    }
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let (mine, theirs) = (self.rows(), other.rows());
        let Some(o) = other.as_any_mut().downcast_mut::<RotatingKvCache>() else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        if (o.size, o.form) != (self.size, self.form) {
            return Err(Error::Request("rotating caches of different sizes or bits cannot be batched".into()));
        }
        if self.keep > 0 || o.keep > 0 {
            return Err(super::cannot_batch("RotatingKVCache with kept tokens"));
        }
        let (a, b) = (self.padding.of(mine), o.padding.of(theirs));
        let offset = self.offset.max(o.offset);
        let (da, db) = (offset - self.offset, offset - o.offset);
        let (Some(x), Some(y)) = (self.ordered(), o.ordered()) else {
            return Err(Error::Request("an empty cache cannot join a filled one".into()));
        };
        let len = x.len().max(y.len());
        let padded = |a: &Array| pad_left(a, len - a.dim(2));
        self.live = None;
        self.buffers = Some(x.zip(&y, |x, y| mx::concatenate(&[padded(x), padded(y)], 0)));
        (self.offset, self.head) = (offset, len);
        self.padding = Padding::join((a, da), (b, db));
        self.starts = None;
        Ok(())
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        let (common, padding) = self.padding.keep(self.rows(), rows);
        let Some(all) = self.ordered() else { return Ok(()) };
        // the longest row left decides how much of the ring is in use
        self.offset -= common;
        let len = all.len().min(self.offset);
        self.live = None;
        self.buffers = Some(all.slice(all.len() - len..all.len()).map(|a| take_rows(&a, rows)));
        self.head = len;
        self.padding = padding;
        self.starts = None;
        Ok(())
    }
    fn state(&self) -> State {
        let mut numbers = vec![self.offset, self.keep, self.size, self.head];
        let arrays = match (&self.parts(), self.form) {
            (None, _) => [State::None, State::None],
            (Some(b), Form::Dense) => [State::Array(b.arrays()[0].clone()), State::Array(b.arrays()[1].clone())],
            (Some(b), Form::Packed { .. }) => [State::of_arrays(&b.arrays()[..3]), State::of_arrays(&b.arrays()[3..])],
        };
        if let Form::Packed { keys, values } = self.form {
            numbers.extend([keys.group_size, keys.bits, values.bits]);
        }
        State::List(arrays.into_iter().chain(numbers.into_iter().map(|n| State::Int(n.into()))).collect())
    }
    fn as_kv(&mut self) -> Option<&mut dyn Kv> {
        Some(self)
    }
    fn as_decode(&mut self) -> Option<&mut dyn Decode> {
        Some(self)
    }
}

impl Decode for RotatingKvCache {
    fn is_decodable(&self, rows: i32, dtype: Dtype, a: &DecodeAttention<'_>) -> bool {
        // the ring is the window: no slot that is filled is hidden
        let alike = self.padding.is_empty() || mlx::fast::has_layer_kernels();
        let whole = a.window.is_none_or(|w| w >= self.size) && alike;
        whole
            && match &self.live {
                Some(live) => live.rows() == rows && live.is_supported(dtype, a),
                None => {
                    let soon = self.buffers.as_ref().and_then(|b| b.live(self.form));
                    soon.is_some_and(|b| b.rows() == rows && b.is_supported(dtype, a))
                }
            }
    }

    fn decode(&mut self, x: &Array, before: Layer<'_>, a: &DecodeAttention<'_>, after: Layer<'_>) -> Array {
        let one = mx::zeros([x.dim(0), a.kv_heads, 1, a.head_dim], x.dtype());
        self.turn(&self.form.store(one.clone(), one));
        if let Some(parts) = self.buffers.take() {
            self.live = parts.live(self.form);
        }
        if self.starts.is_none() {
            self.starts = self.padding.starts();
        }
        let (slot, position) = (self.head, self.offset);
        self.offset += 1;
        self.head += 1;
        let Some(live) = &mut self.live else { unreachable!("there are buffers after a turn") };
        let seen = self.offset.min(live.capacity());
        let place = match &self.starts {
            None => Place::Ring { slot, position, seen },
            Some(starts) => Place::PaddedRing { slot, position, seen, starts },
        };
        live.attend_between(x, before, place, &DecodeAttention { window: None, ..*a }, after)
    }
}

impl Kv for RotatingKvCache {
    fn position(&self) -> Position {
        self.padding.position(self.offset)
    }

    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        let seen = self.store(k, v);
        self.form.dense(&seen, self.dtype)
    }

    fn fetch(&self) -> Option<(Array, Array)> {
        Some(self.form.dense(&self.seen()?, self.dtype))
    }

    fn attend(&mut self, q: &Array, k: Array, v: Array, a: Attend<'_>) -> Array {
        let seen = self.store(k, v);
        self.form.attend(q, &seen, self.dtype, a)
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
        let form = match (int(6), int(7), int(8)) {
            (Some(group), Some(keys), Some(values)) => Form::packed(group, keys, values).ok()?,
            _ => Form::Dense,
        };
        let buffers = match (s.item(0)?, s.item(1)?) {
            (State::None, State::None) => None,
            (k, v) => Some(Parts::from_arrays([k.arrays()?, v.arrays()?].concat(), &form)?),
        };
        let len = buffers.as_ref().map_or(0, Parts::len);
        let dtype = buffers.as_ref().map_or(Dtype::Float32, |b| b.arrays()[usize::from(form != Form::Dense)].dtype());
        let sane = size > 0 && (0..size).contains(&keep) && (0..=len).contains(&head) && offset >= 0;
        let padding = Padding::default();
        let starts = None;
        sane.then_some(RotatingKvCache { buffers, live: None, form, dtype, size, keep, offset, head, padding, starts })
    }
}
