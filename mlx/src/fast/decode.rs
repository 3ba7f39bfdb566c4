//! One token's attention with its cache, for each row of a batch: norms on q and k, rotation, append, softmax, values.
//!
//! On CUDA all of it is one kernel (`cuda/attention.cuh`) that appends to the buffers in place. MLX does not know of
//! that write, so [`KvBuffers`] keeps the discipline: nobody else holds a buffer while it is written, and readers
//! outside wait until the write is queued. The composed form beside it serves every other backend.

use super::cuda::{self, attention};
use super::{Mask, Sdpa, rms_norm, scaled_dot_product_attention};
use crate::error::refuse;
use crate::{Array, Dtype, concatenate};
use std::cell::RefCell;

/// Rotation of the first `dims` features of each head.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// float32 [dims / 2]: radians per position.
    pub radians: &'a Array,
    /// Pairs are neighbours (true) or halves (false).
    pub traditional: bool,
    /// Factor on the rotated features.
    pub feature_scale: f32,
}

/// What a decode step computes besides its projections.
#[derive(Debug, Clone, Copy)]
pub struct DecodeAttention<'a> {
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub scale: f32,
    pub rotation: Option<Rotation<'a>>,
    /// RMS norms over each head of q and of k: weights `[head_dim]`, epsilon.
    pub qk_norm: Option<(&'a Array, &'a Array, f32)>,
    /// How many keys back a query sees.
    pub window: Option<i32>,
    /// `cap * tanh(scores / cap)`.
    pub softcap: Option<f32>,
    /// One logit per head without a value: `[heads]`.
    pub sinks: Option<&'a Array>,
    /// Weights that the following call reads: their start may be brought into the card's cache meanwhile.
    pub next: Option<&'a Array>,
}

/// Where the new tokens go: the same slot in all rows.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// The first key is in slot 0, the position is the slot.
    At(i32),
    /// The first key of row b is in slot `starts[b]` (int32, B or more of them); the position is the difference.
    Padded(i32, &'a Array),
    /// A ring: the token at `position` goes into `slot` and sees all of the first `seen` slots, whatever their order.
    Ring { slot: i32, position: i32, seen: i32 },
}

impl Place<'_> {
    /// The slot that is written, the last one that is seen, and the position of a row that starts in slot 0.
    pub(super) fn numbers(&self) -> [i32; 3] {
        match *self {
            Place::At(slot) | Place::Padded(slot, _) => [slot; 3],
            Place::Ring { slot, position, seen } => [slot, seen - 1, position],
        }
    }
}

/// Keys and values [B, Hkv, T, D] of one layer, in buffers that a decode step may write in place.
#[derive(Debug)]
pub struct KvBuffers {
    pub(super) keys: Array,
    pub(super) values: Array,
    /// Counters of the kernel's last stage: zeros between launches.
    counters: Option<Array>,
    /// The result of the last in-place step, until it is known to be queued.
    pub(super) pending: RefCell<Option<Array>>,
    /// Whether views may show slots that will be written (after a rewind), or the buffers came from elsewhere.
    foreign: bool,
}

impl Clone for KvBuffers {
    /// Shares the buffers; whoever writes first copies.
    fn clone(&self) -> Self {
        let (keys, values) = self.arrays();
        KvBuffers { keys, values, counters: None, pending: RefCell::default(), foreign: true }
    }
}

impl KvBuffers {
    pub fn new(keys: Array, values: Array) -> Self {
        KvBuffers { keys, values, counters: None, pending: RefCell::default(), foreign: true }
    }

    /// Handles to both buffers, for reading. Waits for the last step: its write is not part of their graph.
    pub fn arrays(&self) -> (Array, Array) {
        if let Some(p) = self.pending.take() {
            // a failure shows again where the result is used
            let _ = p.eval();
        }
        (self.keys.clone(), self.values.clone())
    }

    /// Takes the buffers to write them by array ops, which copy what others still hold.
    pub fn into_arrays(self) -> (Array, Array) {
        self.settle();
        (self.keys, self.values)
    }

    /// Rows B of the batch.
    pub fn rows(&self) -> i32 {
        self.keys.dim(0)
    }

    /// Slots T.
    pub fn capacity(&self) -> i32 {
        self.keys.dim(2)
    }

    /// Bytes of both buffers.
    pub fn nbytes(&self) -> usize {
        self.keys.nbytes() + self.values.nbytes()
    }

    /// Tells that slots behind a new end will be written again, while older views of them may live.
    pub fn rewind(&mut self) {
        self.foreign = true;
    }

    /// Queues the last in-place write, so that ops built from here on run after it.
    fn settle(&self) {
        if let Some(p) = self.pending.take() {
            // a failure shows again where the result is used
            let _ = crate::async_eval([&p]);
        }
    }

    /// Makes the buffers this value's own, in row order: nobody else holds them, so that a write in place is seen here
    /// and nowhere else.
    pub(super) fn own(&mut self) {
        let held = |a: &Array| a.use_count() > 1;
        if held(&self.keys) || held(&self.values) {
            // the last step may not be evaluated yet: then its node holds the buffers
            self.settle();
        }
        let mut copy = held(&self.keys) || held(&self.values);
        if self.foreign && !copy {
            self.settle();
            // layout and owners of a buffer are known once it is queued; a failure shows again where it is used
            let _ = crate::async_eval([&self.keys, &self.values]);
            let fine = |a: &Array| a.is_row_contiguous() && a.data_use_count() == 1;
            copy = !fine(&self.keys) || !fine(&self.values);
        }
        if copy {
            self.settle();
            // a sum is a new buffer, a copy may be the old one
            let fresh = |a: &Array| crate::contiguous(a) + 0;
            (self.keys, self.values) = (fresh(&self.keys), fresh(&self.values));
        }
        self.foreign = false;
    }

    /// The attention of one new token per row: qkv [B, .., (H + 2 Hkv) * D] (query heads, key heads, value heads)
    /// -> [B, .., H * D], with the rotated key and the value appended at `place`. Slots must lie within the buffers.
    #[track_caller]
    pub fn attend(&mut self, qkv: &Array, place: Place<'_>, a: &DecodeAttention<'_>) -> Array {
        self.check(qkv, place, a);
        if self.is_supported(qkv.dtype(), a)
            && !cuda::is_traced(qkv)
            && !cuda::is_traced(&self.keys)
            && let Some(gpu) = cuda::current_gpu()
        {
            self.own();
            let groups = self.keys.dim(0) * self.keys.dim(1);
            // small arrays live in memory that the host may touch: keep them larger
            let counters = self.counters.get_or_insert_with(|| crate::zeros([groups.max(64)], Dtype::Int32));
            if let Some(out) = attention::attend(gpu, qkv, (&self.keys, &self.values), counters, place, a) {
                *self.pending.get_mut() = Some(out.clone());
                return out;
            }
        }
        self.attend_plain(qkv, place, a)
    }

    /// Whether one kernel does the whole step here, for projections of this dtype.
    pub fn is_supported(&self, dtype: Dtype, a: &DecodeAttention<'_>) -> bool {
        let same = [a.qk_norm.map(|n| n.0), a.qk_norm.map(|n| n.1), a.sinks, Some(&self.keys), Some(&self.values)];
        cuda::current_gpu().is_some()
            && cuda::is_half(dtype)
            && same.iter().flatten().all(|x| x.dtype() == dtype)
            && attention::is_supported(a)
    }

    #[track_caller]
    fn check(&self, qkv: &Array, place: Place<'_>, a: &DecodeAttention<'_>) {
        let &[b, h, t, d] = self.keys.shape() else { refuse("attend", format!("keys {:?}", self.keys.shape())) };
        let fits = self.values.shape() == self.keys.shape()
            && (h, d) == (a.kv_heads, a.head_dim)
            && a.heads > 0
            && h > 0
            && a.heads % h == 0
            && qkv.ndim() >= 2
            && qkv.dim(-1) == (a.heads + 2 * h) * d
            && qkv.size() as i64 == b as i64 * qkv.dim(-1) as i64
            && qkv.dim(0) == b
            && a.rotation.is_none_or(|r| {
                r.radians.ndim() == 1 && r.radians.dim(0) * 2 <= d && r.radians.dtype() == Dtype::Float32
            })
            && a.qk_norm.is_none_or(|(q, k, _)| q.shape() == [d] && k.shape() == [d])
            && a.sinks.is_none_or(|s| s.shape() == [a.heads])
            && match place {
                Place::At(slot) => (0..t).contains(&slot),
                Place::Padded(slot, starts) => {
                    (0..t).contains(&slot) && starts.ndim() == 1 && starts.dim(0) >= b && starts.dtype() == Dtype::Int32
                }
                Place::Ring { slot, position, seen } => {
                    (0..seen).contains(&slot) && seen <= t && position >= 0 && a.window.is_none()
                }
            };
        if !fits {
            refuse(
                "attend",
                format!("qkv {:?}, keys {:?}, {place:?} do not belong to {a:?}", qkv.shape(), self.keys.shape()),
            );
        }
    }

    /// [`attend`](Self::attend) from plain ops.
    #[track_caller]
    pub fn attend_plain(&mut self, qkv: &Array, place: Place<'_>, a: &DecodeAttention<'_>) -> Array {
        self.settle();
        let [b, hk, t, d] = self.keys.dims();
        let (h, dtype) = (a.heads, qkv.dtype());
        let parts = qkv.reshape([b, h + 2 * hk, d]).split_at(&[h, h + hk], 1);
        let [q, k, v] = parts.as_slice() else { refuse("attend", "qkv has three parts") };
        let (mut q, mut k) = (q.clone(), k.clone());
        if let Some((qn, kn, eps)) = a.qk_norm {
            (q, k) = (rms_norm(&q, Some(qn), eps), rms_norm(&k, Some(kn), eps));
        }
        let [slot, last, position] = place.numbers();
        let starts = match place {
            Place::Padded(_, starts) => starts.slice_axis(0, 0..b),
            _ => crate::zeros([b], Dtype::Int32),
        };
        if let Some(r) = a.rotation {
            let angle = (position - &starts).astype(Dtype::Float32).reshape([b, 1, 1]) * r.radians;
            (q, k) = (rotate(&q, &angle, r), rotate(&k, &angle, r));
        }
        self.keys.update_axis(2, slot..slot + 1, &k.expand_dims(2).astype(dtype));
        self.values.update_axis(2, slot..slot + 1, &v.expand_dims(2));
        let at = crate::arange(0, t, 1, Some(Dtype::Int32)).reshape([1, t]);
        let first = a.window.map_or(0, |w| last + 1 - w);
        let seen = at
            .less_equal(last)
            .logical_and(at.greater_equal(first))
            .logical_and(at.greater_equal(starts.expand_dims(1)));
        let seen = seen.reshape([b, 1, 1, t]);
        let q = q.astype(dtype).expand_dims(2);
        let o = match a.softcap {
            None => {
                let mask = Mask::Array(seen);
                let options = Sdpa { scale: a.scale, mask: Some(&mask), sinks: a.sinks, force_fused: false };
                scaled_dot_product_attention(&q, &self.keys, &self.values, options)
            }
            Some(cap) => {
                let up = |x: &Array| crate::repeat(&x.astype(Dtype::Float32), h / hk, 1);
                let s =
                    (q.astype(Dtype::Float32).matmul(&up(&self.keys).swapaxes(-1, -2)) * a.scale / cap).tanh() * cap;
                let mut s = crate::where_(&seen, &s, f32::NEG_INFINITY);
                if let Some(sinks) = a.sinks {
                    let column = crate::repeat(&sinks.astype(Dtype::Float32).reshape([1, h, 1, 1]), b, 0);
                    s = concatenate(&[s, column], -1);
                }
                s.softmax(-1).slice_axis(-1, 0..t).matmul(&up(&self.values)).astype(dtype)
            }
        };
        let mut shape = qkv.shape().to_vec();
        shape.pop();
        shape.push(h * d);
        o.reshape(shape)
    }
}

/// x [B, H, D] with its first features turned by `angle` [B, 1, dims / 2].
#[track_caller]
fn rotate(x: &Array, angle: &Array, r: Rotation<'_>) -> Array {
    let (half, d) = (angle.dim(-1), x.dim(-1));
    let f = x.astype(Dtype::Float32);
    let (head, tail) = (f.slice_axis(-1, 0..2 * half) * r.feature_scale, f.slice_axis(-1, 2 * half..d));
    let (sin, cos) = (angle.sin(), angle.cos());
    let turned = if r.traditional {
        let [b, h, _] = x.dims();
        let p = head.reshape([b, h, half, 2]);
        let (a, c) = (p.slice_axis(-1, 0..1).squeeze(-1), p.slice_axis(-1, 1..2).squeeze(-1));
        crate::stack(&[&a * &cos - &c * &sin, &c * &cos + &a * &sin], -1).reshape([b, h, 2 * half])
    } else {
        let (a, c) = (head.slice_axis(-1, 0..half), head.slice_axis(-1, half..2 * half));
        concatenate(&[&a * &cos - &c * &sin, &c * &cos + &a * &sin], -1)
    };
    concatenate(&[turned, tail], -1).astype(x.dtype())
}
