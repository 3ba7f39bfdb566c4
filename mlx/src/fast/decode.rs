//! One token's attention with its cache, for each row of a batch: norms on q and k, rotation, append, softmax, values.
//!
//! On CUDA (`cuda/attention.cuh`) and on the CPU (`mlx/kernels/src/step.rs`) all of it is one kernel that appends to the
//! buffers in place. MLX does not know of that write, so [`KvBuffers`] keeps the discipline: nobody else holds a buffer
//! while it is written, a step is queued before the next one is built, and readers outside wait for it. Ops of one stream
//! run in the order in which they are queued, on the CPU by its worker thread; a step on another stream than the last one's
//! waits. The composed form beside it serves every other backend.

use super::backend::{Kernels, is_traced, kernels};
use super::cuda::{self, attention};
use super::linear::{Layer, linear, result_shape};
use super::{Mask, Sdpa, rms_norm, scaled_dot_product_attention};
use crate::error::refuse;
use crate::{Array, Dtype, Quant, QuantMode, concatenate, cpu, dequantize, quantize};
use smallvec::{SmallVec, smallvec};
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
    /// A ring whose row b sees only tokens from number `starts[b]` on, from which its positions count.
    PaddedRing { slot: i32, position: i32, seen: i32, starts: &'a Array },
}

impl Place<'_> {
    /// The slot that is written, the last one that is seen, and the position of a row that starts in slot 0.
    pub(crate) fn numbers(&self) -> [i32; 3] {
        match *self {
            Place::At(slot) | Place::Padded(slot, _) => [slot; 3],
            Place::Ring { slot, position, seen } | Place::PaddedRing { slot, position, seen, .. } => {
                [slot, seen - 1, position]
            }
        }
    }

    /// Which number of tokens before each row's first, if rows differ.
    pub(super) fn starts(&self) -> Option<&Array> {
        match self {
            Place::Padded(_, starts) | Place::PaddedRing { starts, .. } => Some(starts),
            Place::At(_) | Place::Ring { .. } => None,
        }
    }

    /// Slots of a ring whose rows differ, else 0.
    pub(super) fn ring(&self) -> i32 {
        if let Place::PaddedRing { seen, .. } = *self { seen } else { 0 }
    }
}

/// Keys and values [B, Hkv, T, D] of one layer, as they are or packed along D, in buffers that a decode step may write in
/// place.
#[derive(Debug)]
pub struct KvBuffers {
    /// Keys and values; or words, scales and biases of both.
    pub(super) arrays: SmallVec<[Array; 2]>,
    quant: Option<[Quant; 2]>,
    /// Counters of the kernel's last stage: zeros between launches.
    pub(super) counters: Option<Array>,
    /// The result of the last in-place step, until it is known to be queued.
    pub(super) pending: RefCell<Option<Array>>,
    /// The stream of that step.
    stream: usize,
    /// Whether views may show slots that will be written (after a rewind), or the buffers came from elsewhere.
    pub(super) foreign: bool,
}

/// The counters of so many groups, made on first use. Small arrays live in memory that the host may touch: these are larger.
pub(super) fn counters(made: &mut Option<Array>, groups: i32) -> &Array {
    made.get_or_insert_with(|| crate::zeros([groups.max(64)], Dtype::Int32))
}

impl Clone for KvBuffers {
    /// Shares the buffers; whoever writes first copies.
    fn clone(&self) -> Self {
        KvBuffers::of(self.all(), self.quant)
    }
}

impl KvBuffers {
    fn of(arrays: SmallVec<[Array; 2]>, quant: Option<[Quant; 2]>) -> Self {
        KvBuffers { arrays, quant, counters: None, pending: RefCell::default(), stream: 0, foreign: true }
    }

    pub fn new(keys: Array, values: Array) -> Self {
        KvBuffers::of(smallvec![keys, values], None)
    }

    /// Keys and values that [`quantize`] packed: words, scales and biases of each, in affine mode.
    pub fn packed(keys: [Array; 3], values: [Array; 3], quant: [Quant; 2]) -> Self {
        KvBuffers::of(keys.into_iter().chain(values).collect(), Some(quant))
    }

    /// Handles to all buffers, for reading: two, or six of packed ones. Waits for the last step: its write is not part of
    /// their graph.
    pub fn all(&self) -> SmallVec<[Array; 2]> {
        if let Some(p) = self.pending.take() {
            // a failure shows again where the result is used
            let _ = p.eval();
        }
        self.arrays.clone()
    }

    /// [`all`](Self::all) of keys and values that are not packed; the first two of packed ones.
    pub fn arrays(&self) -> (Array, Array) {
        let all = self.all();
        (all[0].clone(), all[1].clone())
    }

    /// Takes the buffers to write them by array ops, which copy what others still hold.
    pub fn into_all(self) -> SmallVec<[Array; 2]> {
        self.settle();
        self.arrays
    }

    /// [`into_all`](Self::into_all) of keys and values that are not packed; the first two of packed ones.
    pub fn into_arrays(self) -> (Array, Array) {
        let mut all = self.into_all();
        (all.remove(0), all.remove(0))
    }

    /// Rows B of the batch.
    pub fn rows(&self) -> i32 {
        self.arrays[0].dim(0)
    }

    /// Slots T.
    pub fn capacity(&self) -> i32 {
        self.arrays[0].dim(2)
    }

    /// Bytes of all buffers.
    pub fn nbytes(&self) -> usize {
        self.arrays.iter().map(Array::nbytes).sum()
    }

    /// Tells that slots behind a new end will be written again, while older views of them may live.
    pub fn rewind(&mut self) {
        self.foreign = true;
    }

    /// Queues the last in-place write, so that ops built from here on run after it.
    pub(super) fn settle(&self) {
        if let Some(p) = self.pending.take() {
            // a failure shows again where the result is used
            let _ = if self.stream == here() { crate::async_eval([&p]) } else { p.eval() };
        }
    }

    /// Makes the buffers this value's own, in row order: nobody else holds them, so that a write in place is seen here
    /// and nowhere else.
    pub(super) fn own(&mut self) {
        if self.stream != here() {
            self.settle();
        }
        let held = |a: &Array| a.use_count() > 1;
        if self.arrays.iter().any(held) {
            // the last step may not be evaluated yet: then its node holds the buffers
            self.settle();
        }
        let mut copy = self.arrays.iter().any(held);
        if self.foreign && !copy {
            self.settle();
            // layout and owners of a buffer are known once it is queued, on the CPU once it is computed: until then its worker
            // holds it; a failure shows again where it is used
            let _ = if cpu::is_current() { crate::eval(&self.arrays) } else { crate::async_eval(&self.arrays) };
            copy = !self.arrays.iter().all(|a| a.is_row_contiguous() && a.data_use_count() == 1);
        }
        if copy {
            self.settle();
            // a sum is a new buffer, a copy may be the old one
            self.arrays.iter_mut().for_each(|a| *a = crate::contiguous(&*a) + 0);
        }
        self.foreign = false;
    }

    /// The attention of one new token per row: qkv [B, .., (H + 2 Hkv) * D] (query heads, key heads, value heads)
    /// -> [B, .., H * D], with the rotated key and the value appended at `place`. Slots must lie within the buffers.
    #[track_caller]
    pub fn attend(&mut self, qkv: &Array, place: Place<'_>, a: &DecodeAttention<'_>) -> Array {
        self.check(qkv.shape(), place, a);
        if self.is_supported(qkv.dtype(), a)
            && !is_traced(qkv)
            && !is_traced(&self.arrays[0])
            && let Some(kernels) = kernels()
            && Self::stands(kernels, place)
        {
            self.own();
            let out = match kernels {
                Kernels::Cpu => Some(cpu::attend(qkv, [&self.arrays[0], &self.arrays[1]], place, a)),
                Kernels::Cuda(gpu) => {
                    let groups = self.rows() * a.kv_heads;
                    let counters = counters(&mut self.counters, groups);
                    let buffers: SmallVec<[&Array; 6]> = self.arrays.iter().collect();
                    attention::attend(gpu, qkv, (&buffers, self.quant, None), counters, place, a)
                }
            };
            if let Some(out) = out {
                self.began(&out);
                return out;
            }
        }
        self.attend_plain(qkv, place, a)
    }

    /// [`attend`](Self::attend) with the projections of x before it and the output layer after it: on the CPU one op.
    #[track_caller]
    pub fn attend_between(
        &mut self,
        x: &Array,
        before: Layer<'_>,
        place: Place<'_>,
        a: &DecodeAttention<'_>,
        after: Layer<'_>,
    ) -> Array {
        let cpu = matches!(kernels(), Some(Kernels::Cpu)) && Self::stands(Kernels::Cpu, place);
        if cpu
            && self.is_supported(x.dtype(), a)
            && !is_traced(x)
            && !is_traced(&self.arrays[0])
            && let Some(mut qkv) = result_shape(Kernels::Cpu, x.shape(), x.dtype(), &before)
        {
            self.check(&qkv, place, a);
            if let Some(last) = qkv.last_mut() {
                *last = a.heads * a.head_dim;
            }
            if let Some(out) = result_shape(Kernels::Cpu, &qkv, x.dtype(), &after) {
                self.own();
                let cache = [&self.arrays[0], &self.arrays[1]];
                let y = cpu::attend_between(x, [&before, &after], cache, place, a, &out);
                self.began(&y);
                return y;
            }
        }
        let o = self.attend(&linear(x, before.parts, before.around), place, a);
        linear(&o, after.parts, after.around)
    }

    /// Whether one kernel does the whole step here, for projections of this dtype.
    pub fn is_supported(&self, dtype: Dtype, a: &DecodeAttention<'_>) -> bool {
        let norms = [a.qk_norm.map(|n| n.0), a.qk_norm.map(|n| n.1)];
        match (kernels(), &self.arrays[..]) {
            (Some(Kernels::Cpu), [keys, values]) => cpu::is_attendable(dtype, [keys, values], a),
            (Some(Kernels::Cuda(_)), _) => {
                let same = [norms[0], norms[1], a.sinks];
                // words are whole numbers, everything beside them has the type of the projections
                let mut sides = self.arrays.iter().enumerate().filter(|(i, _)| self.quant.is_none() || i % 3 > 0);
                cuda::is_half(dtype)
                    && same.iter().flatten().all(|x| x.dtype() == dtype)
                    && sides.all(|(_, x)| x.dtype() == dtype)
                    && attention::is_supported(a, self.quant)
            }
            _ => false,
        }
    }

    /// Whether these kernels know such a place: rings of padded rows are CUDA's alone.
    fn stands(kernels: Kernels, place: Place<'_>) -> bool {
        place.ring() == 0 || matches!(kernels, Kernels::Cuda(_))
    }

    /// Remembers a step that writes in place.
    pub(super) fn began(&mut self, out: &Array) {
        *self.pending.get_mut() = Some(out.clone());
        self.stream = here();
    }

    #[track_caller]
    pub(super) fn check(&self, qkv: &[i32], place: Place<'_>, a: &DecodeAttention<'_>) {
        let first = &self.arrays[0];
        let &[b, h, t, _] = first.shape() else { refuse("attend", format!("keys {:?}", first.shape())) };
        let d = a.head_dim;
        let side = |arrays: &[Array], q: Option<Quant>| match q {
            None => arrays.iter().all(|x| x.shape() == [b, h, t, d]),
            Some(q) => {
                let groups = [b, h, t, d / q.group_size];
                q.mode == QuantMode::Affine
                    && d % q.group_size == 0
                    && arrays[0].shape() == [b, h, t, d / 32 * q.bits]
                    && arrays[0].dtype() == Dtype::Uint32
                    && arrays[1..].iter().all(|x| x.shape() == groups)
            }
        };
        let halves = self.arrays.split_at(self.arrays.len() / 2);
        let fits = side(halves.0, self.quant.map(|q| q[0]))
            && side(halves.1, self.quant.map(|q| q[1]))
            && h == a.kv_heads
            && a.heads > 0
            && h > 0
            && a.heads % h == 0
            && qkv.len() >= 2
            && qkv.last() == Some(&((a.heads + 2 * h) * d))
            && qkv[0] == b
            && qkv[1..qkv.len() - 1].iter().all(|&n| n == 1)
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
                Place::PaddedRing { slot, position, seen, starts } => {
                    (0..seen).contains(&slot)
                        && seen <= t
                        && position >= 0
                        && a.window.is_none()
                        && starts.ndim() == 1
                        && starts.dim(0) >= b
                        && starts.dtype() == Dtype::Int32
                }
            };
        if !fits {
            refuse("attend", format!("qkv {qkv:?}, keys {:?}, {place:?} do not belong to {a:?}", first.shape()));
        }
    }

    /// Writes k and v [B, Hkv, 1, D] to a slot by array ops; all keys and values, as they are.
    fn append(&mut self, slot: i32, new: [&Array; 2]) -> (Array, Array) {
        let Some(quant) = self.quant else {
            self.arrays.iter_mut().zip(new).for_each(|(a, n)| a.update_axis(2, slot..slot + 1, n));
            return (self.arrays[0].clone(), self.arrays[1].clone());
        };
        let mut side = |i: usize| {
            let (words, scales, biases) = quantize(new[i], quant[i]);
            let parts = [Some(words), Some(scales), biases];
            for (a, n) in self.arrays[3 * i..].iter_mut().zip(parts.iter().flatten()) {
                a.update_axis(2, slot..slot + 1, n);
            }
            let all = &self.arrays[3 * i..];
            dequantize(&all[0], &all[1], Some(&all[2]), quant[i], Some(new[i].dtype()))
        };
        (side(0), side(1))
    }

    /// [`attend`](Self::attend) from plain ops.
    #[track_caller]
    pub fn attend_plain(&mut self, qkv: &Array, place: Place<'_>, a: &DecodeAttention<'_>) -> Array {
        self.settle();
        let [b, hk, t, _] = self.arrays[0].dims();
        let (h, d, dtype) = (a.heads, a.head_dim, qkv.dtype());
        let parts = qkv.reshape([b, h + 2 * hk, d]).split_at(&[h, h + hk], 1);
        let [q, k, v] = parts.as_slice() else { refuse("attend", "qkv has three parts") };
        let (mut q, mut k) = (q.clone(), k.clone());
        if let Some((qn, kn, eps)) = a.qk_norm {
            (q, k) = (rms_norm(&q, Some(qn), eps), rms_norm(&k, Some(kn), eps));
        }
        let [slot, last, position] = place.numbers();
        let none = || crate::zeros([b], Dtype::Int32);
        let starts = place.starts().map_or_else(none, |starts| starts.slice_axis(0, 0..b));
        if let Some(r) = a.rotation {
            let angle = (position - &starts).astype(Dtype::Float32).reshape([b, 1, 1]) * r.radians;
            (q, k) = (rotate(&q, &angle, r), rotate(&k, &angle, r));
        }
        let (keys, values) = self.append(slot, [&k.expand_dims(2).astype(dtype), &v.expand_dims(2)]);
        let at = crate::arange(0, t, 1, Some(Dtype::Int32)).reshape([1, t]);
        let first = a.window.map_or(0, |w| last + 1 - w);
        // the number of the token in each slot
        let token = match place {
            Place::PaddedRing { seen, .. } => position - (slot - &at + at.gt(slot).astype(Dtype::Int32) * seen),
            _ => at.clone(),
        };
        let seen = at
            .less_equal(last)
            .logical_and(at.greater_equal(first))
            .logical_and(token.greater_equal(starts.expand_dims(1)));
        let seen = seen.reshape([b, 1, 1, t]);
        let q = q.astype(dtype).expand_dims(2);
        let o = match a.softcap {
            None => {
                let mask = Mask::Array(seen);
                let options = Sdpa { scale: a.scale, mask: Some(&mask), sinks: a.sinks, force_fused: false };
                scaled_dot_product_attention(&q, &keys, &values, options)
            }
            Some(cap) => {
                let up = |x: &Array| crate::repeat(&x.astype(Dtype::Float32), h / hk, 1);
                let s = (q.astype(Dtype::Float32).matmul(&up(&keys).swapaxes(-1, -2)) * a.scale / cap).tanh() * cap;
                let mut s = crate::where_(&seen, &s, f32::NEG_INFINITY);
                if let Some(sinks) = a.sinks {
                    let column = crate::repeat(&sinks.astype(Dtype::Float32).reshape([1, h, 1, 1]), b, 0);
                    s = concatenate(&[s, column], -1);
                }
                s.softmax(-1).slice_axis(-1, 0..t).matmul(&up(&values)).astype(dtype)
            }
        };
        let mut shape = qkv.shape().to_vec();
        shape.pop();
        shape.push(h * d);
        o.reshape(shape)
    }
}

/// The current stream.
fn here() -> usize {
    crate::stream::current().ctx as usize
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
