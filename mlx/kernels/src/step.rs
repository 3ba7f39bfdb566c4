//! The attention of one new token per row of a batch with its cache: norms of q and k, rotation, append, attention. The small part
//! before the attention is done by the caller alone: one meeting of threads.

use crate::attention::{Attention, Mask, attention_on};
use crate::data::{DType, Floats, FloatsMut, Out, View4, View4Mut};
use crate::error::{Error, Result, room, same};
use crate::isa::{Isa, Kernel};
use crate::rope::sin_cos;
use crate::scratch::Temp;
use crate::simd::{Simd, narrow_row, widen_row, with_elem};

/// Rotation of the first features of each head.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// f32 `[dims / 2]`: radians per position.
    pub radians: Floats<'a>,
    /// Pairs are neighbours instead of halves.
    pub traditional: bool,
    /// Factor of the rotated features.
    pub feature_scale: f32,
}

/// Arguments of [`decode_step`].
#[derive(Debug, Clone, Copy)]
pub struct DecodeStep<'a> {
    /// `[B, (H + 2 Hkv) * D]`: query heads, key heads, value heads.
    pub qkv: Floats<'a>,
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// T: slots of the cache.
    pub capacity: usize,
    pub scale: f32,
    pub rotation: Option<Rotation<'a>>,
    /// RMS norms of each head of q and k: weights `[D]` and epsilon.
    pub qk_norm: Option<(Floats<'a>, Floats<'a>, f32)>,
    pub window: Option<usize>,
    pub softcap: Option<f32>,
    /// `[H]`
    pub sinks: Option<Floats<'a>>,
    /// The slot that is written, and the last one that is seen.
    pub slot: usize,
    pub last: usize,
    /// Position of a row that starts in slot 0.
    pub position: i32,
    /// The first slot of each row (it counts its positions from there).
    pub starts: Option<&'a [i32]>,
}

/// `out[B, H * D]`: attention over the caches `[B, Hkv, T, D]` of one type, where the new keys and values are put first.
///
/// # Errors
/// Sizes that do not fit together.
pub fn decode_step(s: &DecodeStep<'_>, keys: FloatsMut<'_>, values: FloatsMut<'_>, out: FloatsMut<'_>) -> Result<()> {
    decode_step_on(Isa::best(), s, keys, values, out)
}

/// [`decode_step`] with a given instruction set.
///
/// # Errors
/// As [`decode_step`].
pub fn decode_step_on(
    isa: Isa,
    s: &DecodeStep<'_>,
    mut keys: FloatsMut<'_>,
    mut values: FloatsMut<'_>,
    out: FloatsMut<'_>,
) -> Result<()> {
    let (b, h, hk, d, t) = (s.batch, s.heads, s.kv_heads, s.head_dim, s.capacity);
    room("qkv", b.checked_mul((h + 2 * hk) * d), s.qkv.len())?;
    room("keys", b.checked_mul(hk * t * d), keys.len())?;
    room("values", b.checked_mul(hk * t * d), values.len())?;
    room("out", b.checked_mul(h * d), out.len())?;
    if s.last >= t || s.slot > s.last {
        return Err(Error::Index { what: "slot", index: s.slot.max(s.last), limit: t });
    }
    if let Some(r) = s.rotation
        && (2 * r.radians.len() > d || r.radians.dtype() != DType::F32)
    {
        return Err(Error::Unsupported { what: "radians", why: "not f32 or more than half a head" });
    }
    if let Some((q, k, _)) = s.qk_norm {
        room("norm of q", Some(d), q.len())?;
        room("norm of k", Some(d), k.len())?;
    }
    if let Some(starts) = s.starts {
        same("starts", b, starts.len())?;
    }
    let mut temp = Temp::new(b * h * d);
    let q = temp.ptr();
    let (k_out, v_out) = (keys.out(), values.out());
    // SAFETY: sizes were checked; the scratch holds b * h * d
    unsafe { isa.run(Append { s, q, keys: k_out, values: v_out }) };
    // SAFETY: the scratch was written; the caches are only read from here on
    let (queries, keys, values) = unsafe {
        (
            Floats::from_raw(q.cast(), b * h * d, DType::F32),
            Floats::from_raw(k_out.at(0), b * hk * t * d, k_out.dtype),
            Floats::from_raw(v_out.at(0), b * hk * t * d, v_out.dtype),
        )
    };
    let seen = [b, hk, s.last + 1, d];
    let strides = [hk * t * d, t * d, d, 1];
    let starts: Option<Vec<usize>> =
        s.starts.map(|starts| starts.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect());
    let call = Attention {
        q: View4::contiguous(queries, [b, h, 1, d])?,
        k: View4::new(keys, seen, strides)?,
        v: View4::new(values, seen, strides)?,
        scale: s.scale,
        causal: false,
        window: s.window,
        starts: starts.as_deref(),
        softcap: s.softcap,
        mask: Mask::None,
        sinks: s.sinks,
    };
    attention_on(isa, &call, View4Mut::contiguous(out, [b, h, 1, d])?)
}

/// Everything before the attention.
struct Append<'a> {
    s: &'a DecodeStep<'a>,
    q: *mut f32,
    keys: Out,
    values: Out,
}

impl Kernel for Append<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let s = self.s;
        let (h, hk, d) = (s.heads, s.kv_heads, s.head_dim);
        let half = s.rotation.map_or(0, |r| r.radians.len());
        let mut temp = Temp::new(4 * d + 2 * half);
        let row = temp.ptr();
        unsafe {
            let (turned, norms, table) = (row.add(d), row.add(2 * d), row.add(4 * d));
            if let Some((q, k, _)) = s.qk_norm {
                with_elem!(q.dtype(), T => widen_row::<S, T>(q.at(0).cast(), norms, d));
                with_elem!(k.dtype(), T => widen_row::<S, T>(k.at(0).cast(), norms.add(d), d));
            }
            let mut angle_of = None;
            for b in 0..s.batch {
                let position = s.position - s.starts.map_or(0, |a| a[b]);
                if let Some(r) = s.rotation.filter(|_| angle_of != Some(position)) {
                    for j in 0..half {
                        // the angle is an f32, as everywhere else
                        let (sin, cos) = sin_cos(f64::from(position as f32 * r.radians.value(j)));
                        (*table.add(j), *table.add(half + j)) = (cos, sin);
                    }
                    angle_of = Some(position);
                }
                for head in 0..h + 2 * hk {
                    let src = s.qkv.at((b * (h + 2 * hk) + head) * d);
                    with_elem!(s.qkv.dtype(), T => widen_row::<S, T>(src.cast(), row, d));
                    let is_key = head >= h;
                    let slot = |head: usize| ((b * hk + head) * s.capacity + s.slot) * d;
                    if head >= h + hk {
                        let dst = self.values.at(slot(head - h - hk));
                        with_elem!(self.values.dtype, T => narrow_row::<S, T>(row, dst.cast(), d));
                        continue;
                    }
                    if let Some((_, _, eps)) = s.qk_norm {
                        norm::<S>(row, norms.add(if is_key { d } else { 0 }), d, eps);
                    }
                    let done = match s.rotation {
                        None => row,
                        Some(r) => {
                            turn::<S>(row, table, half, r, turned);
                            std::ptr::copy_nonoverlapping(row.add(2 * half), turned.add(2 * half), d - 2 * half);
                            turned
                        }
                    };
                    if is_key {
                        let dst = self.keys.at(slot(head - h));
                        with_elem!(self.keys.dtype, T => narrow_row::<S, T>(done, dst.cast(), d));
                    } else {
                        std::ptr::copy_nonoverlapping(done, self.q.add((b * h + head) * d), d);
                    }
                }
            }
        }
    }
}

/// row / rms(row) * weight
#[inline(always)]
unsafe fn norm<S: Simd>(row: *mut f32, weight: *const f32, d: usize, eps: f32) {
    unsafe {
        let body = d / S::N * S::N;
        let mut acc = S::splat(0.0);
        for i in (0..body).step_by(S::N) {
            let v = S::load(row.add(i));
            acc = S::fma(v, v, acc);
        }
        let mut sum = S::sum(acc);
        for i in body..d {
            sum += *row.add(i) * *row.add(i);
        }
        let f = 1.0 / (sum / d as f32 + eps).sqrt();
        for i in (0..body).step_by(S::N) {
            let v = S::mul(S::load(row.add(i)), S::splat(f));
            S::store(row.add(i), S::mul(v, S::load(weight.add(i))));
        }
        for i in body..d {
            *row.add(i) *= f * *weight.add(i);
        }
    }
}

/// The first `2 * half` features of a row turned by a table of cosines, then sines.
#[inline(always)]
unsafe fn turn<S: Simd>(row: *const f32, table: *const f32, half: usize, r: Rotation<'_>, out: *mut f32) {
    unsafe {
        let (cos, sin, f) = (table, table.add(half), r.feature_scale);
        if r.traditional {
            for j in 0..half {
                let (a, b, c, s) = (*row.add(2 * j) * f, *row.add(2 * j + 1) * f, *cos.add(j), *sin.add(j));
                *out.add(2 * j) = a * c - b * s;
                *out.add(2 * j + 1) = a * s + b * c;
            }
            return;
        }
        let body = half / S::N * S::N;
        for j in (0..body).step_by(S::N) {
            let (a, b) = (S::mul(S::load(row.add(j)), S::splat(f)), S::mul(S::load(row.add(half + j)), S::splat(f)));
            let (c, s) = (S::load(cos.add(j)), S::load(sin.add(j)));
            S::store(out.add(j), S::sub(S::mul(a, c), S::mul(b, s)));
            S::store(out.add(half + j), S::fma(a, s, S::mul(b, c)));
        }
        for j in body..half {
            let (a, b, c, s) = (*row.add(j) * f, *row.add(half + j) * f, *cos.add(j), *sin.add(j));
            *out.add(j) = a * c - b * s;
            *out.add(half + j) = a * s + b * c;
        }
    }
}
