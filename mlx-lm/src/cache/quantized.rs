//! Keys and values packed to a few bits (`QuantizedKVCache`).

use super::kv::{STEP, pad_left};
use super::padding::Padding;
use super::parts::{Form, Parts};
use super::{Attend, Cache, Decode, Kv, Mark, MaskKey, Position, State, in_steps, nbytes_of, take_rows};
use crate::{Error, Result};
use mlx::fast::{DecodeAttention, KvBuffers, Layer, Mask, Place};
use mlx::{self as mx, Array, Dtype};

/// Keys and values of every token seen, packed as they come; keys and values may have different widths.
#[derive(Debug, Clone)]
pub struct QuantizedKvCache {
    buffers: Option<Parts>,
    /// Buffers that steps of one kernel write; `buffers` is then empty.
    live: Option<KvBuffers>,
    offset: i32,
    padding: Padding,
    /// The padding as a decode kernel reads it.
    starts: Option<Array>,
    form: Form,
    dtype: Dtype,
}

impl QuantizedKvCache {
    /// An empty cache; groups run along the head dimension.
    ///
    /// # Errors
    /// Bits or a group size that MLX does not pack.
    pub fn new(group_size: i32, key_bits: i32, value_bits: i32) -> Result<Self> {
        let form = Form::packed(group_size, key_bits, value_bits)?;
        Ok(Self::empty(form, 0, Padding::default()))
    }

    fn empty(form: Form, offset: i32, padding: Padding) -> Self {
        let (buffers, live, starts, dtype) = (None, None, None, Dtype::Float32);
        QuantizedKvCache { buffers, live, offset, padding, starts, form, dtype }
    }

    /// Handles to the buffers, for reading.
    fn parts(&self) -> Option<Parts> {
        self.live.as_ref().map(Parts::of).or_else(|| self.buffers.clone())
    }

    /// The buffers, for writing by array ops.
    fn take(&mut self) -> Option<Parts> {
        self.live.take().map(Parts::from_live).or_else(|| self.buffers.take())
    }

    pub(super) fn from_dense(kv: Option<(Array, Array)>, offset: i32, padding: Padding, form: Form) -> Result<Self> {
        let mut new = Self::empty(form, offset, padding);
        if let Some((k, v)) = kv {
            form.check(&k, &v)?;
            new.dtype = k.dtype();
            new.buffers = Some(form.store(k, v));
        }
        Ok(new)
    }

    /// Bits of the keys, and how many values share a scale.
    pub fn key_bits(&self) -> (i32, i32) {
        match self.form {
            Form::Packed { keys, .. } => (keys.bits, keys.group_size),
            Form::Dense => unreachable!("made packed"),
        }
    }

    /// What is written of the buffers.
    fn seen(&self) -> Option<Parts> {
        self.parts().map(|b| b.slice(0..self.offset))
    }

    fn store(&mut self, k: Array, v: Array) {
        self.dtype = k.dtype();
        let new = self.form.store(k, v);
        let mut buffers = self.reserve(&new);
        buffers.write(self.offset, &new);
        self.buffers = Some(buffers);
        self.offset += new.len();
    }

    /// Buffers with room for `new`.
    fn reserve(&mut self, new: &Parts) -> Parts {
        let end = self.offset + new.len();
        let more = (STEP + new.len() - 1) / STEP * STEP;
        match self.take() {
            None => new.zeros(more),
            Some(old) if end <= old.len() => old,
            // only whole steps stay aligned: an unfinished one is cut first
            Some(old) => old.slice(0..self.offset).then(&new.zeros(more)),
        }
    }
}

impl Cache for QuantizedKvCache {
    fn kind(&self) -> &'static str {
        "QuantizedKVCache"
    }
    fn offset(&self) -> i32 {
        self.offset
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        self.parts().iter().flat_map(Parts::arrays).for_each(f);
    }
    fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.offset);
        self.offset -= n;
        if let Some(live) = &mut self.live {
            live.rewind();
        }
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
        match &self.live {
            Some(live) => live.rows() as usize,
            None => self.buffers.as_ref().map_or(1, |b| b.arrays()[0].dim(0) as usize),
        }
    }
    fn nbytes(&self) -> usize {
        match &self.live {
            Some(live) => live.nbytes(),
            None => self.buffers.iter().flat_map(Parts::arrays).map(Array::nbytes).sum(),
        }
    }
    fn nbytes_at(&self, n: i32) -> usize {
        nbytes_of(self.parts().iter().flat_map(Parts::arrays), in_steps(n))
    }
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let (mine, theirs) = (self.rows(), other.rows());
        let Some(o) = other.as_any_mut().downcast_mut::<QuantizedKvCache>().filter(|o| o.form == self.form) else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        let (Some(x), Some(y)) = (self.seen(), o.seen()) else {
            return Err(Error::Request("an empty cache cannot join a filled one".into()));
        };
        let (a, b) = (self.padding.of(mine), o.padding.of(theirs));
        let len = self.offset.max(o.offset);
        let (da, db) = (len - self.offset, len - o.offset);
        (self.live, self.starts) = (None, None);
        self.buffers = Some(x.zip(&y, |x, y| mlx::concatenate(&[pad_left(x, da), pad_left(y, db)], 0)));
        self.offset = len;
        self.padding = Padding::join((a, da), (b, db));
        Ok(())
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        let (common, padding) = self.padding.keep(self.rows(), rows);
        self.buffers = self.seen().map(|b| b.slice(common..self.offset).map(|a| take_rows(&a, rows)));
        (self.live, self.starts) = (None, None);
        self.offset -= common;
        self.padding = padding;
        Ok(())
    }
    /// As Python's; the width of the values is a sixth item where it is not that of the keys.
    fn state(&self) -> State {
        let Form::Packed { keys, values } = self.form else { return State::None };
        let parts = self.parts();
        let side = |from: usize| match &parts {
            Some(b) => State::of_arrays(&b.arrays()[from..from + 3]),
            None => State::None,
        };
        let mut numbers = vec![self.offset, keys.group_size, keys.bits];
        if values.bits != keys.bits {
            numbers.push(values.bits);
        }
        State::List([side(0), side(3)].into_iter().chain(numbers.into_iter().map(|n| State::Int(n.into()))).collect())
    }
}

impl Decode for QuantizedKvCache {
    fn is_decodable(&self, rows: i32, dtype: Dtype, a: &DecodeAttention<'_>) -> bool {
        let fits = |b: &KvBuffers| b.rows() == rows && b.is_supported(dtype, a);
        match &self.live {
            Some(live) => fits(live),
            None => self.buffers.as_ref().and_then(|b| b.live(self.form)).as_ref().is_some_and(fits),
        }
    }

    fn decode(&mut self, x: &Array, before: Layer<'_>, a: &DecodeAttention<'_>, after: Layer<'_>) -> Array {
        if self.live.as_ref().is_none_or(|b| self.offset >= b.capacity()) {
            let one = mx::zeros([x.dim(0), a.kv_heads, 1, a.head_dim], x.dtype());
            let new = self.form.store(one.clone(), one);
            self.live = self.reserve(&new).live(self.form);
        }
        if self.starts.is_none() {
            self.starts = self.padding.starts();
        }
        let Some(live) = &mut self.live else { unreachable!("packed buffers were reserved") };
        let place = match &self.starts {
            None => Place::At(self.offset),
            Some(starts) => Place::Padded(self.offset, starts),
        };
        let o = live.attend_between(x, before, place, a, after);
        self.offset += 1;
        o
    }
}

impl Kv for QuantizedKvCache {
    fn position(&self) -> Position {
        self.padding.position(self.offset)
    }
    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        self.store(k.clone(), v.clone());
        self.fetch().unwrap_or((k, v))
    }
    fn fetch(&self) -> Option<(Array, Array)> {
        Some(self.form.dense(&self.seen()?, self.dtype))
    }
    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        self.padding.mask(self.offset, n, window, as_array)
    }
    fn mask_key(&self) -> MaskKey {
        self.padding.key("quantized", self.offset, 0, 0)
    }

    /// Scores and values by products with the packed sides: the dense form never exists.
    fn attend(&mut self, q: &Array, k: Array, v: Array, a: Attend<'_>) -> Array {
        self.store(k, v);
        let Some(seen) = self.seen() else { unreachable!("stored above") };
        self.form.attend(q, &seen, self.dtype, a)
    }
}

impl QuantizedKvCache {
    pub(super) fn from_state(s: &State) -> Option<QuantizedKvCache> {
        let int = |i: usize| s.item(i)?.int().map(|n| n as i32);
        let (offset, group, bits) = (int(2)?, int(3)?, int(4)?);
        let mut new = Self::new(group, bits, int(5).unwrap_or(bits)).ok()?;
        new.offset = offset;
        new.buffers = match (s.item(0)?, s.item(1)?) {
            (State::None, State::None) if offset == 0 => None,
            (k, v) => Some(Parts::from_arrays([k.arrays()?, v.arrays()?].concat(), &new.form)?),
        };
        if let Some(b) = &new.buffers {
            new.dtype = b.arrays()[1].dtype();
            if !(0..=b.len()).contains(&offset) {
                return None;
            }
        }
        Some(new)
    }
}
