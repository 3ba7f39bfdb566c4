//! Mamba's recurrence: a state of N numbers per channel, each fading at its own rate.

use crate::data::{DType, Floats, FloatsMut, Out, Scratch};
use crate::decode::widen;
use crate::error::{Error, Result, same};
use crate::isa::{Isa, Kernel};
use crate::pool::parallel;
use crate::scratch::Temp;
use crate::simd::{Simd, exp};

/// Tokens that are prepared at the same time.
const TOKENS: usize = 32;
/// Channels of a task, whole cache lines of a token.
const CHANNELS: usize = 64;
/// Channels that go together.
const GROUP: usize = 4;

/// Arguments of [`selective_scan`], without gaps.
#[derive(Debug, Clone, Copy)]
pub struct SelectiveScan<'a> {
    /// B, L, D, N
    pub dims: [usize; 4],
    /// `[B, L, D]`
    pub u: Floats<'a>,
    /// `[B, L, D]`
    pub dt: Floats<'a>,
    /// `[D, N]`
    pub a: Floats<'a>,
    /// `[B, L, N]`
    pub b: Floats<'a>,
    /// `[B, L, N]`
    pub c: Floats<'a>,
    /// `[D]`
    pub skip: Floats<'a>,
    /// The first state, `[B, D, N]`; zeros if `None`.
    pub state: Option<Floats<'a>>,
}

/// `S = e^(dt a) S + dt u b`, `out = sum(S c) + skip u`, token by token: f32 `[B, L, D]`, and `last`, the state behind the
/// last token, f32 `[B, D, N]`.
///
/// # Errors
/// Sizes that do not fit together, outputs that are not f32.
pub fn selective_scan(s: &SelectiveScan<'_>, out: FloatsMut<'_>, last: FloatsMut<'_>) -> Result<()> {
    selective_scan_on(Isa::best(), s, out, last)
}

/// [`selective_scan`] with a given instruction set.
///
/// # Errors
/// As [`selective_scan`].
pub fn selective_scan_on(
    isa: Isa,
    s: &SelectiveScan<'_>,
    mut out: FloatsMut<'_>,
    mut last: FloatsMut<'_>,
) -> Result<()> {
    let [b, l, d, n] = s.dims;
    let size = |all: &[usize]| all.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).unwrap_or(usize::MAX);
    let (tokens, states) = (size(&[b, l, d]), size(&[b, d, n]));
    for (what, x, expected) in [
        ("u", Some(s.u), tokens),
        ("dt", Some(s.dt), tokens),
        ("a", Some(s.a), size(&[d, n])),
        ("b", Some(s.b), size(&[b, l, n])),
        ("c", Some(s.c), size(&[b, l, n])),
        ("skip", Some(s.skip), d),
        ("first state", s.state, states),
    ] {
        x.map_or(Ok(()), |x| same(what, expected, x.len()))?;
    }
    same("out", tokens, out.len())?;
    same("last state", states, last.len())?;
    if out.dtype() != DType::F32 || last.dtype() != DType::F32 {
        return Err(Error::Unsupported { what: "outputs", why: "must be f32" });
    }
    let parts = d.div_ceil(CHANNELS);
    let (out, last) = (out.out(), last.out());
    parallel(b * parts, |i| {
        let first = i % parts * CHANNELS;
        let job = Channels { s: *s, row: i / parts, first, count: CHANNELS.min(d - first), out, last };
        // SAFETY: sizes were checked; tasks write their own channels.
        unsafe { isa.run(job) }
    });
    Ok(())
}

/// Some channels of one row of the batch.
struct Channels<'a> {
    s: SelectiveScan<'a>,
    row: usize,
    first: usize,
    count: usize,
    out: Out,
    last: Out,
}

impl Kernel for Channels<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let Channels { s, row, first, count, out, last } = self;
            let [_, l, d, n] = s.dims;
            let w = n.next_multiple_of(S::N);
            let mut temp = Temp::new(CHANNELS * (2 * w + 1) + TOKENS * 2 * (w + CHANNELS));
            let all = temp.slice();
            // what fills up a state stays zero: it fades by e^0 and is written with b = 0
            all.fill(0.0);
            let all = Scratch(all.as_mut_ptr());
            let (a, state, skip) = (all.at(0), all.at(CHANNELS * w), all.at(2 * CHANNELS * w));
            let b = skip.add(CHANNELS);
            let c = b.add(TOKENS * w);
            let (u, dt) = (c.add(TOKENS * w), c.add(TOKENS * (w + CHANNELS)));
            widen::<S>(s.skip, first, count, skip);
            for i in 0..count {
                widen::<S>(s.a, (first + i) * n, n, a.add(i * w));
                if let Some(from) = s.state {
                    widen::<S>(from, (row * d + first + i) * n, n, state.add(i * w));
                }
            }
            let mut from = 0;
            while from < l {
                let tokens = TOKENS.min(l - from);
                for t in 0..tokens {
                    let token = row * l + from + t;
                    widen::<S>(s.b, token * n, n, b.add(t * w));
                    widen::<S>(s.c, token * n, n, c.add(t * w));
                    widen::<S>(s.u, token * d + first, count, u.add(t * CHANNELS));
                    widen::<S>(s.dt, token * d + first, count, dt.add(t * CHANNELS));
                }
                for g in (0..count).step_by(GROUP) {
                    for t in 0..tokens {
                        let mut acc = [S::splat(0.0); GROUP];
                        let at = t * CHANNELS + g;
                        for j in (0..w).step_by(S::N) {
                            let (b, c) = (S::load(b.add(t * w + j)), S::load(c.add(t * w + j)));
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let place = (g + r) * w + j;
                                let (dt, u) = (*dt.add(at + r), *u.add(at + r));
                                let fade = exp::<S>(S::mul(S::splat(dt), S::load(a.add(place))));
                                let new = S::fma(S::load(state.add(place)), fade, S::mul(S::splat(dt * u), b));
                                S::store(state.add(place), new);
                                *acc = S::fma(new, c, *acc);
                            }
                        }
                        let to = out.at((row * l + from + t) * d + first + g).cast::<f32>();
                        for (r, acc) in acc.into_iter().enumerate().take(count - g) {
                            to.add(r).write_unaligned(S::sum(acc) + *skip.add(g + r) * *u.add(at + r));
                        }
                    }
                }
                from += tokens;
            }
            for i in 0..count {
                let to = last.at((row * d + first + i) * n);
                std::ptr::copy_nonoverlapping(state.add(i * w).cast(), to, 4 * n);
            }
        }
    }
}
