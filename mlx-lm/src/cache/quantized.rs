//! Keys and values packed to a few bits (`QuantizedKVCache`).

use super::kv::STEP;
use super::padding::Padding;
use super::{Attend, Cache, Kv, MaskKey, Position, State, attention_weights, take_rows};
use crate::{Error, Result};
use mlx::fast::Mask;
use mlx::{self as mx, Array, Dtype, Quant};
use std::any::Any;

/// Packed words, scales and biases of one side.
#[derive(Debug, Clone)]
struct Packed([Array; 3]);

impl Packed {
    fn new(dense: &Array, q: Quant) -> Packed {
        let (w, s, b) = mx::quantize(dense, q);
        let b = b.unwrap_or_else(|| mx::zeros_like(&s));
        Packed([w, s, b])
    }
    fn map(self, f: impl Fn(Array) -> Array) -> Packed {
        Packed(self.0.map(f))
    }
    fn dense(&self, q: Quant, dtype: Dtype) -> Array {
        mx::dequantize(&self.0[0], &self.0[1], Some(&self.0[2]), q, Some(dtype))
    }
}

/// Keys and values of every token seen, packed as they come; keys and values may have different widths.
#[derive(Debug, Clone)]
pub struct QuantizedKvCache {
    buffers: Option<(Packed, Packed)>,
    offset: i32,
    padding: Padding,
    keys: Quant,
    values: Quant,
    dtype: Dtype,
}

fn quant(group_size: i32, bits: i32) -> Result<Quant> {
    let q = Quant::affine(group_size, bits);
    if q.is_valid() {
        Ok(q)
    } else {
        Err(Error::Request(format!("KV cache: {bits} bits in groups of {group_size} are not supported")))
    }
}

impl QuantizedKvCache {
    /// An empty cache; groups run along the head dimension.
    pub fn new(group_size: i32, key_bits: i32, value_bits: i32) -> Result<Self> {
        Ok(QuantizedKvCache {
            buffers: None,
            offset: 0,
            padding: Padding::default(),
            keys: quant(group_size, key_bits)?,
            values: quant(group_size, value_bits)?,
            dtype: Dtype::Float32,
        })
    }

    pub(super) fn from_dense(
        kv: Option<(Array, Array)>,
        offset: i32,
        padding: Padding,
        group_size: i32,
        bits: i32,
    ) -> Result<Self> {
        let mut new = Self::new(group_size, bits, bits)?;
        if let Some((k, v)) = kv {
            for (name, a) in [("key", &k), ("value", &v)] {
                if a.dim(-1) % group_size != 0 {
                    let d = a.dim(-1);
                    return Err(Error::Request(format!(
                        "KV cache: {name} width {d} is not a multiple of the group {group_size}"
                    )));
                }
            }
            new.dtype = k.dtype();
            new.buffers = Some((Packed::new(&k, new.keys), Packed::new(&v, new.values)));
        }
        (new.offset, new.padding) = (offset, padding);
        Ok(new)
    }

    fn grow(&mut self, n: i32) {
        let more = (STEP + n - 1) / STEP * STEP;
        let (offset, enlarge) = (self.offset, |a: Array| {
            let [b, h, t, d] = a.dims();
            let old = if self.offset % STEP == 0 && t == self.offset { a } else { a.slice_axis(2, 0..self.offset) };
            mx::concatenate(&[old.clone(), mx::zeros([b, h, more, d], old.dtype())], 2)
        });
        if let Some((k, v)) = self.buffers.take() {
            let full = offset + n > k.0[0].dim(2);
            self.buffers = Some(if full { (k.map(enlarge), v.map(enlarge)) } else { (k, v) });
        }
    }

    fn seen(&self, p: &Packed) -> Packed {
        p.clone().map(|a| if self.offset < a.dim(2) { a.slice_axis(2, 0..self.offset) } else { a })
    }

    fn store(&mut self, k: &Array, v: &Array) {
        self.dtype = k.dtype();
        let n = k.dim(2);
        let (k, v) = (Packed::new(k, self.keys), Packed::new(v, self.values));
        if self.buffers.is_none() {
            let rows = |p: &Packed| {
                p.clone().map(|a| {
                    let [b, h, _, d] = a.dims();
                    mx::zeros([b, h, (STEP + n - 1) / STEP * STEP, d], a.dtype())
                })
            };
            self.buffers = Some((rows(&k), rows(&v)));
        }
        self.grow(n);
        let range = self.offset..self.offset + n;
        if let Some((keys, values)) = &mut self.buffers {
            for (side, new) in [(keys, k), (values, v)] {
                side.0.iter_mut().zip(new.0).for_each(|(old, new)| old.update_axis(2, range.clone(), &new));
            }
        }
        self.offset = range.end;
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
        if let Some((k, v)) = &self.buffers {
            k.0.iter().chain(&v.0).for_each(f);
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
    fn join(&mut self, mut other: Box<dyn Cache>) -> Result<()> {
        let (mine, theirs) = (self.rows(), other.rows());
        let Some(o) = other
            .as_any_mut()
            .downcast_mut::<QuantizedKvCache>()
            .filter(|o| (o.keys, o.values) == (self.keys, self.values))
        else {
            return Err(Error::Request("caches of different models cannot be batched".into()));
        };
        let (Some((k, v)), Some((k2, v2))) = (&self.buffers, &o.buffers) else {
            return Err(Error::Request("an empty cache cannot join a filled one".into()));
        };
        let (a, b) = (self.padding.of(mine), o.padding.of(theirs));
        let len = self.offset.max(o.offset);
        let (da, db) = (len - self.offset, len - o.offset);
        let joined = |x: Packed, y: Packed| {
            let both: Vec<Array> =
                x.0.iter()
                    .zip(&y.0)
                    .map(|(x, y)| mx::concatenate(&[super::kv::pad_left(x, da), super::kv::pad_left(y, db)], 0))
                    .collect();
            both.try_into().map(Packed).unwrap_or(x)
        };
        self.buffers = Some((joined(self.seen(k), o.seen(k2)), joined(self.seen(v), o.seen(v2))));
        self.offset = len;
        self.padding = Padding::join((a, da), (b, db));
        Ok(())
    }
    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        let (common, padding) = self.padding.keep(self.rows(), rows);
        let cut = |p: Packed| p.map(|a| take_rows(&a.slice_axis(2, common..a.dim(2)), rows));
        if let Some((k, v)) = &self.buffers {
            self.buffers = Some((cut(self.seen(k)), cut(self.seen(v))));
        }
        self.offset -= common;
        self.padding = padding;
        Ok(())
    }
    fn state(&self) -> State {
        let side = |p: Option<&Packed>| {
            p.map_or(State::None, |p| State::List(p.0.iter().cloned().map(State::Array).collect()))
        };
        let b = self.buffers.as_ref();
        State::List(vec![
            side(b.map(|b| &b.0)),
            side(b.map(|b| &b.1)),
            State::Int(self.offset.into()),
            State::Int(self.keys.group_size.into()),
            State::Int(self.keys.bits.into()),
        ])
    }
}

impl Kv for QuantizedKvCache {
    fn position(&self) -> Position {
        self.padding.position(self.offset)
    }
    fn update(&mut self, k: Array, v: Array) -> (Array, Array) {
        self.store(&k, &v);
        self.fetch().unwrap_or((k, v))
    }
    fn fetch(&self) -> Option<(Array, Array)> {
        let (k, v) = self.buffers.as_ref()?;
        Some((self.seen(k).dense(self.keys, self.dtype), self.seen(v).dense(self.values, self.dtype)))
    }
    fn mask(&self, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        self.padding.mask(self.offset, n, window, as_array)
    }
    fn mask_key(&self) -> MaskKey {
        self.padding.key("quantized", self.offset, 0, 0)
    }

    /// Scores and values by products with the packed sides: the dense form never exists.
    fn attend(&mut self, q: &Array, k: Array, v: Array, a: Attend<'_>) -> Array {
        if a.sinks.is_some() || a.softcap.is_some() {
            let (k, v) = self.update(k, v);
            return super::sdpa(q, &k, &v, a);
        }
        self.store(&k, &v);
        let Some((keys, values)) = &self.buffers else { return super::sdpa(q, &k, &v, a) };
        let (keys, values) = (self.seen(keys), self.seen(values));
        let [b, h, l, d] = q.dims();
        let groups = k.dim(1);
        let q = (q * a.scale).reshape([b, groups, h / groups, l, d]);
        let side = |p: Packed| p.map(|a| a.expand_dims(2));
        let (keys, values) = (side(keys), side(values));
        let scores = mx::quantized_matmul(&q, &keys.0[0], &keys.0[1], Some(&keys.0[2]), true, self.keys);
        let weights = attention_weights(scores, a.mask);
        mx::quantized_matmul(&weights, &values.0[0], &values.0[1], Some(&values.0[2]), false, self.values)
            .reshape([b, h, l, -1])
    }
}

impl QuantizedKvCache {
    pub(super) fn from_state(s: &State) -> Option<QuantizedKvCache> {
        let int = |i: usize| s.item(i)?.int().map(|n| n as i32);
        let (offset, group, bits) = (int(2)?, int(3)?, int(4)?);
        let mut new = Self::new(group, bits, bits).ok()?;
        let side = |i: usize| -> Option<Packed> {
            let parts: Vec<Array> = s.item(i)?.list()?.iter().filter_map(|a| a.array().cloned()).collect();
            parts.try_into().ok().map(Packed)
        };
        new.buffers = side(0).zip(side(1));
        new.offset = offset;
        if let Some((k, _)) = &new.buffers {
            new.dtype = k.0[1].dtype();
            if k.0[0].ndim() != 4 || !(0..=k.0[0].dim(2)).contains(&offset) {
                return None;
            }
        }
        Some(new)
    }
}
