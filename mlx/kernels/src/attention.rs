//! Softmax attention over blocks of keys with a running maximum and sum, so that no `[L, S]` array ever exists. The query rows that
//! share a key head are processed together; with few of them (decode) the keys are split between threads and partial results merged.

use crate::data::{Floats, Out, Scratch, View4, View4Mut, check_span};
use crate::decode::widen;
use crate::error::{Error, Result, room, same};
use crate::gemm::{panel_rows, tile};
use crate::isa::{Isa, Kernel};
use crate::pool::{parallel, threads};
use crate::scratch::Temp;
use crate::simd::{Simd, add_row, exp, narrow_row, transpose, widen_row, with_elem};

/// Keys in a block.
const KEYS: usize = 64;
/// Query rows of one task (a multiple of every panel height).
const ROWS: usize = 192;
/// A split of the keys is worth a task from here.
const SPLIT: usize = KEYS;

/// What a query may see besides the causal and window limits, shapes broadcast to `[B, Hq, L, S]` by zero strides.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    None,
    /// Nonzero bytes are seen.
    Bool {
        data: &'a [u8],
        strides: [usize; 4],
    },
    /// Added to the scaled scores.
    Add {
        data: Floats<'a>,
        strides: [usize; 4],
    },
}

/// Arguments of [`attention`].
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// `[B, Hq, L, D]`
    pub q: View4<'a>,
    /// `[B, Hkv, S, D]`, Hkv divides Hq: query head h reads key head `h / (Hq / Hkv)`.
    pub k: View4<'a>,
    /// `[B, Hkv, S, Dv]`
    pub v: View4<'a>,
    /// Factor of the scores.
    pub scale: f32,
    /// Query l sees keys up to `S - L + l` (aligned to the end).
    pub causal: bool,
    /// Query l sees only the last so many keys up to `S - L + l`; implies `causal`.
    pub window: Option<usize>,
    /// Queries of batch row b see no key before this one.
    pub starts: Option<&'a [usize]>,
    /// Scores become `cap * tanh(score / cap)`, before any mask.
    pub softcap: Option<f32>,
    /// Further mask.
    pub mask: Mask<'a>,
    /// `[Hq]`: a logit per head that takes part in the softmax without a value.
    pub sinks: Option<Floats<'a>>,
}

/// `out[B, Hq, L, Dv] = softmax(scale * q k^T + mask) v`, sums in f32, any mix of types. A query that sees no key gives zeros.
/// MLX: `fast.scaled_dot_product_attention`.
///
/// # Errors
/// Shapes that do not fit together, last axes that are not contiguous.
pub fn attention(a: &Attention<'_>, out: View4Mut<'_>) -> Result<()> {
    attention_on(Isa::best(), a, out)
}

/// [`attention`] with a given instruction set.
///
/// # Errors
/// As [`attention`].
pub fn attention_on(isa: Isa, a: &Attention<'_>, mut out: View4Mut<'_>) -> Result<()> {
    let [b, hq, l, d] = a.q.dims;
    let [kb, hk, s, kd] = a.k.dims;
    same("batch of k", b, kb)?;
    same("head size of k", d, kd)?;
    let dv = a.v.dims[3];
    for (what, expected, got) in
        [("batch of v", b, a.v.dims[0]), ("heads of v", hk, a.v.dims[1]), ("length of v", s, a.v.dims[2])]
    {
        same(what, expected, got)?;
    }
    for (i, expected) in [b, hq, l, dv].into_iter().enumerate() {
        same("output of attention", expected, out.dims[i])?;
    }
    for (what, v) in [("q", &a.q), ("k", &a.k), ("v", &a.v)] {
        v.last_contiguous(what)?;
    }
    if hk == 0 || !hq.is_multiple_of(hk) {
        return Err(Error::Size { what: "query heads (a multiple of the key heads)", expected: hk, got: hq });
    }
    match a.mask {
        Mask::None => {}
        Mask::Bool { data, strides } => check_span("mask", data.len(), [b, hq, l, s], strides)?,
        Mask::Add { data, strides } => check_span("mask", data.len(), [b, hq, l, s], strides)?,
    }
    if let Some(sinks) = a.sinks {
        room("sinks", Some(hq), sinks.len())?;
    }
    if let Some(starts) = a.starts {
        same("starts", b, starts.len())?;
    }
    let (ptr, strides) = out.rows();
    // SAFETY: every view was checked against its buffer when made, and the shapes agree.
    unsafe { run(isa, a, ptr, strides) };
    Ok(())
}

unsafe fn run(isa: Isa, a: &Attention<'_>, out: Out, out_strides: [usize; 4]) {
    let [b, hq, l, _] = a.q.dims;
    let (hk, s, dv) = (a.k.dims[1], a.k.dims[2], a.v.dims[3]);
    let rows = hq / hk * l;
    if b == 0 || rows == 0 || dv == 0 {
        return;
    }
    let mut per = ROWS.min(rows);
    while per > 2 * panel_rows(isa) && b * hk * rows.div_ceil(per) < 3 * threads() {
        per = (per / 2).next_multiple_of(panel_rows(isa));
    }
    let blocks = rows.div_ceil(per);
    let tasks = b * hk * blocks;
    let parts = if tasks < 3 * threads() { (3 * threads() / tasks).min(s / SPLIT).max(1) } else { 1 };
    let part_keys = s.div_ceil(parts).next_multiple_of(KEYS);
    let dvp = dv.next_multiple_of(2 * isa.lanes());
    let state = per.next_multiple_of(panel_rows(isa)) * (dvp + 2);
    let mut temp = Temp::new(if parts > 1 { tasks * parts * state } else { 0 });
    let states = Scratch(temp.ptr());
    let job = |i: usize| {
        // the longest tasks (last queries) first
        let (part, i) = (i % parts, i / parts);
        let (head, block) = (i % (b * hk), blocks - 1 - i / (b * hk));
        Job {
            a,
            batch: head / hk,
            head: head % hk,
            r0: block * per,
            r1: (block * per + per).min(rows),
            keys: (part * part_keys).min(s)..((part + 1) * part_keys).min(s),
            first: part == 0,
            dvp,
            state: if parts > 1 { states.at((i * parts + part) * state) } else { std::ptr::null_mut() },
            write: (parts == 1).then_some((out, out_strides)),
        }
    };
    // a small job costs less than waking a helper
    let small = rows * s * (a.q.dims[3] + dv) * b * hk < 32 << 10;
    // SAFETY: each task has its own state, and its own rows of the result.
    let each = |i: usize| unsafe { isa.run(job(i)) };
    if small {
        (0..tasks * parts).for_each(each)
    } else {
        parallel(tasks * parts, each)
    }
    if parts > 1 {
        let merge = |t: usize| {
            let mut first = job(t * parts);
            first.write = Some((out, out_strides));
            // SAFETY: the states of this task's parts lie side by side.
            unsafe { isa.run(Merge { job: first, parts, stride: state }) }
        };
        if tasks * parts * state < 64 << 10 { (0..tasks).for_each(merge) } else { parallel(tasks, merge) }
    }
}

/// Query rows `r0 .. r1` of one key head against a range of keys. Row r is query `r / rep` of head `head * rep + r % rep`.
struct Job<'a> {
    a: &'a Attention<'a>,
    batch: usize,
    head: usize,
    r0: usize,
    r1: usize,
    keys: std::ops::Range<usize>,
    first: bool,
    dvp: usize,
    /// `[rows][dvp]` sums, then `[rows]` maxima, then `[rows]` sums of weights; null if nobody merges it.
    state: *mut f32,
    write: Option<(Out, [usize; 4])>,
}

impl Job<'_> {
    fn rep(&self) -> usize {
        self.a.q.dims[1] / self.a.k.dims[1]
    }
    /// (query head, query) of a row.
    fn row(&self, r: usize) -> (usize, usize) {
        (self.head * self.rep() + r % self.rep(), r / self.rep())
    }
    /// Keys that causality and the window leave to query l.
    fn limits(&self, l: usize) -> (usize, usize) {
        let (len, s) = (self.a.q.dims[2], self.a.k.dims[2]);
        let start = self.a.starts.map_or(0, |s| s[self.batch]);
        if !self.a.causal && self.a.window.is_none() {
            return (start, s);
        }
        let end = (s + l + 1).saturating_sub(len).min(s);
        (self.a.window.map_or(0, |w| end.saturating_sub(w)).max(start), end)
    }
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, sums: *mut f32, weights: *const f32) {
        let Some((out, strides)) = self.write else { return };
        unsafe {
            let dv = self.a.v.dims[3];
            for r in 0..self.r1 - self.r0 {
                let (h, l) = self.row(self.r0 + r);
                let w = *weights.add(r);
                let inv = S::splat(if w > 0.0 { 1.0 / w } else { 0.0 });
                let row = sums.add(r * self.dvp);
                for i in (0..self.dvp).step_by(S::N) {
                    S::store(row.add(i), S::mul(S::load(row.add(i)), inv));
                }
                let at = self.batch * strides[0] + h * strides[1] + l * strides[2];
                with_elem!(out.dtype, T => narrow_row::<S, T>(row, out.at(at).cast(), dv));
            }
        }
    }
}

impl Kernel for Job<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let a = self.a;
            let height = if const { S::N == 16 } { 12 } else { 6 };
            let rows = self.r1 - self.r0;
            let padded = rows.next_multiple_of(height);
            let (d, dv) = (a.q.dims[3], a.v.dims[3]);
            let d8 = d.next_multiple_of(8);
            let mut own = Temp::new(if self.state.is_null() { padded * (self.dvp + 2) } else { 0 });
            let sums = if self.state.is_null() { own.ptr() } else { self.state };
            let maxima = sums.add(padded * self.dvp);
            let weights = maxima.add(padded);

            // q in panels [d][height], keys plain and turned, values, scores of a panel
            let lens = [padded * d8, KEYS * d8, KEYS * d8, KEYS * self.dvp, height * KEYS];
            let mut temp = Temp::new(lens.iter().sum::<usize>());
            let q = temp.ptr();
            std::slice::from_raw_parts_mut(q, lens[0]).fill(0.0);
            let plain = q.add(lens[0]);
            let turned = plain.add(lens[1]);
            let values = turned.add(lens[2]);
            let scores = values.add(lens[3]);

            let (mut from, mut to) = (usize::MAX, 0);
            std::slice::from_raw_parts_mut(sums, padded * self.dvp).fill(0.0);
            for r in 0..padded {
                *maxima.add(r) = f32::NEG_INFINITY;
                *weights.add(r) = 0.0;
                if r >= rows {
                    continue;
                }
                let (h, l) = self.row(self.r0 + r);
                if let (Some(s), true) = (a.sinks, self.first) {
                    *maxima.add(r) = s.value(h);
                    *weights.add(r) = 1.0;
                }
                let (lo, hi) = self.limits(l);
                (from, to) = (from.min(lo), to.max(hi));
                let dst = q.add(r / height * height * d8 + r % height);
                with_elem!(a.q.data.dtype(), T => widen_row::<S, T>(a.q.row(self.batch, h, l).cast(), plain, d));
                for i in 0..d {
                    *dst.add(i * height) = *plain.add(i) * a.scale;
                }
            }
            std::slice::from_raw_parts_mut(plain, d8).fill(0.0);

            let mut j0 = self.keys.start.max(from.min(self.keys.end) / KEYS * KEYS);
            let end = self.keys.end.min(to);
            while j0 < end {
                let n = KEYS.min(end - j0);
                for j in 0..n {
                    let (k, v) = (a.k.row(self.batch, self.head, j0 + j), a.v.row(self.batch, self.head, j0 + j));
                    with_elem!(a.k.data.dtype(), T => widen_row::<S, T>(k.cast(), plain.add(j * d8), d));
                    with_elem!(a.v.data.dtype(), T => widen_row::<S, T>(v.cast(), values.add(j * self.dvp), dv));
                }
                transpose::<S>(plain.cast(), d8, turned.cast(), KEYS, n.next_multiple_of(8), d8);
                for p in (0..rows).step_by(height) {
                    let panel = Panel {
                        job: &self,
                        q: q.add(p * d8),
                        d,
                        turned,
                        values,
                        scores,
                        sums: sums.add(p * self.dvp),
                        maxima: maxima.add(p),
                        weights: weights.add(p),
                        r0: self.r0 + p,
                        live: (rows - p).min(height),
                        j0,
                        n,
                    };
                    panel.run::<S>();
                }
                j0 += KEYS;
            }
            self.write::<S>(sums, weights);
        }
    }
}

/// A panel of query rows against one block of keys.
struct Panel<'a> {
    job: &'a Job<'a>,
    q: *const f32,
    d: usize,
    turned: *const f32,
    values: *const f32,
    scores: *mut f32,
    sums: *mut f32,
    maxima: *mut f32,
    weights: *mut f32,
    r0: usize,
    live: usize,
    j0: usize,
    n: usize,
}

impl Panel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self) {
        unsafe {
            if const { S::N == 16 } {
                match self.live {
                    1 => self.rows::<S, 1>(12),
                    2 => self.rows::<S, 2>(12),
                    3..=4 => self.rows::<S, 4>(12),
                    5..=8 => self.rows::<S, 8>(12),
                    _ => self.rows::<S, 12>(12),
                }
            } else {
                match self.live {
                    1 => self.rows::<S, 1>(6),
                    2 => self.rows::<S, 2>(6),
                    3..=4 => self.rows::<S, 4>(6),
                    _ => self.rows::<S, 6>(6),
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize>(&self, height: usize) {
        unsafe {
            let dvp = self.job.dvp;
            let mut j = 0;
            while j < self.n {
                let mut acc = [[S::splat(0.0); 2]; M];
                tile::<S, M, 2>(self.q, 1, height, self.turned.add(j), KEYS, self.d, &mut acc);
                for m in 0..M {
                    for v in 0..2 {
                        S::store(self.scores.add(m * KEYS + j + v * S::N), acc[m][v]);
                    }
                }
                j += 2 * S::N;
            }
            let mut alpha = [1.0f32; M];
            for (m, alpha) in alpha.iter_mut().enumerate().take(self.live) {
                *alpha = self.softmax::<S>(m);
            }
            let mut i = 0;
            while i < dvp {
                let mut acc = [[S::splat(0.0); 2]; M];
                for m in 0..M {
                    for v in 0..2 {
                        let old = S::load(self.sums.add(m * dvp + i + v * S::N));
                        acc[m][v] = S::mul(old, S::splat(alpha[m]));
                    }
                }
                tile::<S, M, 2>(self.scores, KEYS, 1, self.values.add(i), dvp, self.n, &mut acc);
                for m in 0..M {
                    for v in 0..2 {
                        S::store(self.sums.add(m * dvp + i + v * S::N), acc[m][v]);
                    }
                }
                i += 2 * S::N;
            }
        }
    }
    /// Scores of row m to weights; returns the factor of what was summed before.
    #[inline(always)]
    unsafe fn softmax<S: Simd>(&self, m: usize) -> f32 {
        unsafe {
            let row = self.scores.add(m * KEYS);
            let (h, l) = self.job.row(self.r0 + m);
            let (lo, hi) = self.job.limits(l);
            let (lo, hi) =
                (lo.clamp(self.j0, self.j0 + self.n) - self.j0, hi.clamp(self.j0, self.j0 + self.n) - self.j0);
            let b = self.job.batch;
            if let Some(cap) = self.job.a.softcap {
                for j in (0..KEYS).step_by(S::N) {
                    // tanh z = 1 - 2 / (e^2z + 1)
                    let e = exp::<S>(S::mul(S::load(row.add(j)), S::splat(2.0 / cap)));
                    let part = S::div(S::splat(2.0 * cap), S::add(e, S::splat(1.0)));
                    S::store(row.add(j), S::sub(S::splat(cap), part));
                }
            }
            match self.job.a.mask {
                Mask::None => {}
                Mask::Bool { data, strides } => {
                    let at = b * strides[0] + h * strides[1] + l * strides[2] + self.j0 * strides[3];
                    for j in lo..hi {
                        if *data.as_ptr().add(at + j * strides[3]) == 0 {
                            *row.add(j) = f32::NEG_INFINITY;
                        }
                    }
                }
                Mask::Add { data, strides } => {
                    let at = b * strides[0] + h * strides[1] + l * strides[2] + self.j0 * strides[3];
                    if strides[3] == 1 {
                        let mut t = [0f32; KEYS];
                        widen::<S>(data, at + lo, hi - lo, t.as_mut_ptr());
                        add_row::<S>(row.add(lo), t.as_ptr(), hi - lo);
                    } else {
                        for j in lo..hi {
                            *row.add(j) += data.value(at + j * strides[3]);
                        }
                    }
                }
            }
            for j in (0..lo).chain(hi..KEYS) {
                *row.add(j) = f32::NEG_INFINITY;
            }
            let mut top = S::splat(f32::NEG_INFINITY);
            for j in (0..KEYS).step_by(S::N) {
                top = S::max(top, S::load(row.add(j)));
            }
            let old = *self.maxima.add(m);
            let new = S::max_lane(top).max(old);
            if new == f32::NEG_INFINITY {
                std::slice::from_raw_parts_mut(row, KEYS).fill(0.0);
                return 1.0;
            }
            let mut sum = S::splat(0.0);
            for j in (0..KEYS).step_by(S::N) {
                let e = exp::<S>(S::sub(S::load(row.add(j)), S::splat(new)));
                sum = S::add(sum, e);
                S::store(row.add(j), e);
            }
            let alpha = if old == new { 1.0 } else { (old - new).exp() };
            *self.maxima.add(m) = new;
            *self.weights.add(m) = *self.weights.add(m) * alpha + S::sum(sum);
            alpha
        }
    }
}

/// Partial results of one task over several ranges of keys into one.
struct Merge<'a> {
    job: Job<'a>,
    parts: usize,
    stride: usize,
}

impl Kernel for Merge<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let job = self.job;
            let height = if const { S::N == 16 } { 12 } else { 6 };
            let rows = job.r1 - job.r0;
            let padded = rows.next_multiple_of(height);
            let (maxima, weights) = (padded * job.dvp, padded * job.dvp + padded);
            for r in 0..rows {
                let at = |part: usize, i: usize| job.state.wrapping_add(part * self.stride + i);
                let mut top = f32::NEG_INFINITY;
                for part in 0..self.parts {
                    top = top.max(*at(part, maxima + r));
                }
                let mut weight = 0.0;
                for part in 0..self.parts {
                    let m = *at(part, maxima + r);
                    let f = if m == f32::NEG_INFINITY { 0.0 } else { (m - top).exp() };
                    weight += f * *at(part, weights + r);
                    for i in (0..job.dvp).step_by(S::N) {
                        let src = S::mul(S::load(at(part, r * job.dvp + i)), S::splat(f));
                        let dst = at(0, r * job.dvp + i);
                        S::store(dst, if part == 0 { src } else { S::add(S::load(dst), src) });
                    }
                }
                *at(0, weights + r) = weight;
            }
            job.write::<S>(job.state, job.state.add(weights));
        }
    }
}
