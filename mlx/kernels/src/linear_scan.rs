//! Linear recurrences of sequence mixers: a state `[V, K]` per head that fades, is written to by each token and read. Rows of
//! the state do not know each other: a few at a time stay in the nearest cache while some tokens pass.

use crate::data::{DType, Floats, FloatsMut, Out, Scratch, View4, View4Mut};
use crate::decode::widen;
use crate::error::{Error, Result, same};
use crate::isa::{Isa, Kernel};
use crate::pool::{parallel, threads};
use crate::scratch::Temp;
use crate::simd::{Simd, exp};

/// Tokens that are prepared at the same time.
const TOKENS: usize = 32;
/// Rows of a state that go together.
const ROWS: usize = 4;

/// Arguments of [`linear_scan`]. Each may have fewer heads than H, the state's: head h reads head `h / (H / its own)`.
#[derive(Debug, Clone, Copy)]
pub struct LinearScan<'a> {
    /// `[B, Hq, L, K]`
    pub q: View4<'a>,
    /// `[B, Hk, L, K]`
    pub k: View4<'a>,
    /// `[B, Hv, L, V]`
    pub v: View4<'a>,
    /// Log-decays `[B, Hg, L, 1 or K]`, at most 0; `[B, Hg, L, V]` for [`Rule::Slots`].
    pub g: View4<'a>,
    /// How tokens write.
    pub rule: Rule<'a>,
    /// The first state, f32 `[B, H, V, K]` without gaps; zeros if `None`.
    pub state: Option<Floats<'a>>,
}

/// What a token does to the state S that its g has faded.
#[derive(Debug, Clone, Copy)]
pub enum Rule<'a> {
    /// `S += beta v k^T`, beta `[B, Hb, L, 1]` or 1.
    Add { beta: Option<View4<'a>> },
    /// `S += beta (v - S k) k^T`
    Delta { beta: View4<'a> },
    /// `S += v k^T - (S' r) e^T`, S' before it fades; r and e `[B, Hr, L, K]`.
    Remove { at: View4<'a>, under: View4<'a> },
    /// `S += v k^T`, S faded row by row: a g per value.
    Slots,
}

impl<'a> Rule<'a> {
    fn views(&self) -> [Option<View4<'a>>; 2] {
        match *self {
            Rule::Add { beta } => [beta, None],
            Rule::Delta { beta } => [Some(beta), None],
            Rule::Remove { at, under } => [Some(at), Some(under)],
            Rule::Slots => [None, None],
        }
    }
}

/// `S = S diag(e^g)`, a write by the rule, `out = S q`, token by token: outputs f32 `[B, H, L, V]` and `last`, the state
/// behind the last token, f32 `[B, H, V, K]`.
///
/// # Errors
/// Shapes that do not fit together, last axes that are not contiguous, outputs that are not f32.
pub fn linear_scan(a: &LinearScan<'_>, out: View4Mut<'_>, last: FloatsMut<'_>) -> Result<()> {
    linear_scan_on(Isa::best(), a, out, last)
}

/// [`linear_scan`] with a given instruction set.
///
/// # Errors
/// As [`linear_scan`].
pub fn linear_scan_on(isa: Isa, a: &LinearScan<'_>, mut out: View4Mut<'_>, mut last: FloatsMut<'_>) -> Result<()> {
    let ([b, h, l, dv], dk) = (out.dims, a.k.dims[3]);
    let check = |what: &'static str, x: &View4<'_>, width: usize| {
        same(what, b, x.dims[0])?;
        same(what, l, x.dims[2])?;
        same(what, width, x.dims[3])?;
        x.last_contiguous(what)?;
        match x.dims[1] {
            0 => Err(Error::Size { what, expected: h, got: 0 }),
            own => same(what, 0, h % own),
        }
    };
    check("q", &a.q, dk)?;
    check("k", &a.k, dk)?;
    check("v", &a.v, dv)?;
    let fading = match a.rule {
        Rule::Slots => dv,
        _ if a.g.dims[3] == 1 => 1,
        _ => dk,
    };
    check("decays", &a.g, fading)?;
    let width = if matches!(a.rule, Rule::Remove { .. }) { dk } else { 1 };
    for x in a.rule.views().iter().flatten() {
        check("the rule", x, width)?;
    }
    let size = b * h * dv * dk;
    same("last state", size, last.len())?;
    if let Some(s) = &a.state {
        same("first state", size, s.len())?;
        float32("first state", s.dtype())?;
    }
    float32("last state", last.dtype())?;
    let (to, strides) = out.rows();
    float32("out", to.dtype)?;
    if size == 0 || l == 0 {
        return Err(Error::Unsupported { what: "shapes", why: "must not be empty" });
    }
    // rows are split only where heads are too few for the threads
    let parts = (2 * threads()).div_ceil(b * h).min(dv.div_ceil(ROWS));
    let per = dv.div_ceil(parts).next_multiple_of(ROWS);
    let last = last.out();
    parallel(b * h * parts, |i| {
        let (head, v0) = (i / parts, i % parts * per);
        let rows = per.min(dv.saturating_sub(v0));
        let job = Head { a: *a, b: head / h, h: head % h, heads: h, v0, rows, to, strides, last };
        // SAFETY: sizes were checked; tasks write their own rows.
        unsafe { isa.run(job) }
    });
    Ok(())
}

fn float32(what: &'static str, dtype: DType) -> Result<()> {
    if dtype == DType::F32 { Ok(()) } else { Err(Error::Unsupported { what, why: "must be f32" }) }
}

/// Some rows of one head's state.
struct Head<'a> {
    a: LinearScan<'a>,
    b: usize,
    h: usize,
    heads: usize,
    v0: usize,
    rows: usize,
    to: Out,
    strides: [usize; 4],
    last: Out,
}

/// Tokens in f32, rows of K (filled up with zeros to whole vectors) or V.
struct Tokens {
    n: usize,
    width: usize,
    values: usize,
    decay: *mut f32,
    key: *mut f32,
    query: *mut f32,
    at: *mut f32,
    under: *mut f32,
    value: *mut f32,
    /// Decays of values.
    fade: *mut f32,
    beta: *mut f32,
}

impl Kernel for Head<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let (l, dk) = (self.a.k.dims[2], self.a.k.dims[3]);
            let (width, values) = (dk.next_multiple_of(S::N), self.rows.next_multiple_of(S::N));
            let mut temp = Temp::new(TOKENS * (5 * width + 2 * values + 1) + ROWS * width);
            let all = temp.slice();
            all.fill(0.0);
            let all = Scratch(all.as_mut_ptr());
            let row = |i: usize| all.at(i * TOKENS * width);
            let (value, fade) = (row(5), all.at(TOKENS * (5 * width + values)));
            let beta = fade.add(TOKENS * values);
            let (decay, key, query, at, under) = (row(0), row(1), row(2), row(3), row(4));
            let state = beta.add(TOKENS);
            let mut t = Tokens { n: 0, width, values, decay, key, query, at, under, value, fade, beta };
            let mut from = 0;
            while from < l {
                t.n = TOKENS.min(l - from);
                self.prepare::<S>(&t, from);
                for v in (0..self.rows).step_by(ROWS) {
                    let rows = ROWS.min(self.rows - v);
                    let at = |i: usize| ((self.b * self.heads + self.h) * self.a.v.dims[3] + self.v0 + v + i) * dk;
                    for i in 0..rows {
                        let to = state.add(i * width);
                        match self.a.state {
                            _ if from > 0 => std::ptr::copy_nonoverlapping(self.last.at(at(i)), to.cast(), 4 * dk),
                            Some(s) => widen::<S>(s, at(i), dk, to),
                            None => std::slice::from_raw_parts_mut(to, dk).fill(0.0),
                        }
                    }
                    match self.a.rule {
                        Rule::Add { .. } => self.pass::<S, ADD>(&t, state, v, rows, from),
                        Rule::Delta { .. } => self.pass::<S, DELTA>(&t, state, v, rows, from),
                        Rule::Remove { .. } => self.pass::<S, REMOVE>(&t, state, v, rows, from),
                        Rule::Slots => self.pass::<S, SLOTS>(&t, state, v, rows, from),
                    }
                    for i in 0..rows {
                        std::ptr::copy_nonoverlapping(state.add(i * width).cast(), self.last.at(at(i)), 4 * dk);
                    }
                }
                from += t.n;
            }
        }
    }
}

const ADD: u8 = 0;
const DELTA: u8 = 1;
const REMOVE: u8 = 2;
const SLOTS: u8 = 3;

impl Head<'_> {
    /// Widens the tokens from `from` on; values become what is written before anything is read: beta v.
    #[inline(always)]
    unsafe fn prepare<S: Simd>(&self, t: &Tokens, from: usize) {
        unsafe {
            let dk = self.a.k.dims[3];
            let place = |x: &View4<'_>, i: usize| {
                let head = self.h / (self.heads / x.dims[1]);
                self.b * x.strides[0] + head * x.strides[1] + (from + i) * x.strides[2]
            };
            let take = |x: &View4<'_>, i: usize, to: *mut f32| widen::<S>(x.data, place(x, i), dk, to.add(i * t.width));
            for i in 0..t.n {
                take(&self.a.q, i, t.query);
                take(&self.a.k, i, t.key);
                let (decay, at) = (t.decay.add(i * t.width), t.at.add(i * t.width));
                if matches!(self.a.rule, Rule::Slots) {
                    let fade = t.fade.add(i * t.values);
                    widen::<S>(self.a.g.data, place(&self.a.g, i) + self.v0, self.rows, fade);
                    for j in (0..t.values).step_by(S::N) {
                        S::store(fade.add(j), exp::<S>(S::load(fade.add(j))));
                    }
                } else if self.a.g.dims[3] == 1 {
                    let e = exp::<S>(S::splat(self.a.g.data.value(place(&self.a.g, i))));
                    for j in (0..t.width).step_by(S::N) {
                        S::store(decay.add(j), e);
                    }
                } else {
                    take(&self.a.g, i, t.decay);
                    for j in (0..t.width).step_by(S::N) {
                        S::store(decay.add(j), exp::<S>(S::load(decay.add(j))));
                    }
                }
                let beta = match &self.a.rule {
                    Rule::Add { beta: Some(beta) } | Rule::Delta { beta } => beta.data.value(place(beta, i)),
                    _ => 1.0,
                };
                *t.beta.add(i) = beta;
                match &self.a.rule {
                    Rule::Add { .. } | Rule::Slots => {}
                    Rule::Delta { .. } => {
                        // the faded state read at k is the state before it read at k e^g
                        for j in (0..t.width).step_by(S::N) {
                            let key = t.key.add(i * t.width + j);
                            S::store(at.add(j), S::mul(S::load(decay.add(j)), S::load(key)));
                        }
                    }
                    Rule::Remove { at, under } => {
                        take(at, i, t.at);
                        take(under, i, t.under);
                    }
                }
                let value = t.value.add(i * t.values);
                widen::<S>(self.a.v.data, place(&self.a.v, i) + self.v0, self.rows, value);
                if beta != 1.0 {
                    for x in std::slice::from_raw_parts_mut(value, self.rows) {
                        *x *= beta;
                    }
                }
            }
        }
    }

    /// The tokens pass `rows` rows of the state, from row `v` of this part on.
    #[inline(always)]
    unsafe fn pass<S: Simd, const RULE: u8>(&self, t: &Tokens, state: *mut f32, v: usize, rows: usize, from: usize) {
        unsafe {
            let w = t.width;
            for i in 0..t.n {
                let row = i * w;
                let mut write = [0f32; ROWS];
                let mut seen = [0f32; ROWS];
                if RULE == DELTA || RULE == REMOVE {
                    let mut acc = [S::splat(0.0); ROWS];
                    for j in (0..w).step_by(S::N) {
                        let at = S::load(t.at.add(row + j));
                        for r in 0..ROWS {
                            acc[r] = S::fma(S::load(state.add(r * w + j)), at, acc[r]);
                        }
                    }
                    seen = acc.map(|a| S::sum(a));
                }
                let beta = *t.beta.add(i);
                for r in 0..ROWS {
                    let value = *t.value.add(i * t.values + v + r);
                    write[r] = if RULE == DELTA { value - beta * seen[r] } else { value };
                }
                let (write, taken) = (write.map(|x| S::splat(x)), seen.map(|x| S::splat(-x)));
                let fade: [_; ROWS] = std::array::from_fn(|r| S::splat(*t.fade.add(i * t.values + v + r)));
                let mut acc = [S::splat(0.0); ROWS];
                for j in (0..w).step_by(S::N) {
                    let [decay, key, query] = [t.decay, t.key, t.query].map(|p| S::load(p.add(row + j)));
                    for r in 0..ROWS {
                        let at = state.add(r * w + j);
                        let mut s = S::mul(S::load(at), if RULE == SLOTS { fade[r] } else { decay });
                        if RULE == REMOVE {
                            s = S::fma(S::load(t.under.add(row + j)), taken[r], s);
                        }
                        s = S::fma(key, write[r], s);
                        S::store(at, s);
                        acc[r] = S::fma(s, query, acc[r]);
                    }
                }
                let [sb, sh, sl, _] = self.strides;
                let to = self.to.at(self.b * sb + self.h * sh + (from + i) * sl + self.v0 + v);
                for (r, a) in acc.into_iter().enumerate().take(rows) {
                    to.cast::<f32>().add(r).write_unaligned(S::sum(a));
                }
            }
        }
    }
}
