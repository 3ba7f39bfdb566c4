//! Short causal convolutions, channel by channel.

use crate::data::{DType, Floats, FloatsMut, Out, Scratch, View4};
use crate::decode::widen;
use crate::error::{Error, Result, same};
use crate::isa::{Isa, Kernel};
use crate::pool::parallel;
use crate::scratch::Temp;
use crate::simd::{Simd, exp, narrow_row, widen_row, with_elem};

/// Tokens and channels of a task: what it reads in f32 stays in the nearest cache.
const TOKENS: usize = 32;
const CHANNELS: usize = 256;

/// Arguments of [`short_conv`].
#[derive(Debug, Clone, Copy)]
pub struct ShortConv<'a> {
    /// `[B, 1, L, C]`
    pub x: View4<'a>,
    /// `[C, taps]`
    pub weight: Floats<'a>,
    /// `[C]`
    pub bias: Option<Floats<'a>>,
    /// What came before x, `[B, taps - 1, C]` without gaps; zeros if `None`.
    pub tail: Option<Floats<'a>>,
    /// `y sigmoid(y)` in place of y, each rounded to the type of the output.
    pub silu: bool,
}

/// `out[t] = sum over j of weight[:, j] * x[t - taps + 1 + j] + bias`, `[B, L, C]`, and `next`, the last `taps - 1` inputs
/// `[B, taps - 1, C]`. Sums are f32, of any mix of types.
///
/// # Errors
/// Sizes that do not fit together, a last axis of x that is not contiguous.
pub fn short_conv(a: &ShortConv<'_>, out: FloatsMut<'_>, next: FloatsMut<'_>) -> Result<()> {
    short_conv_on(Isa::best(), a, out, next)
}

/// [`short_conv`] with a given instruction set.
///
/// # Errors
/// As [`short_conv`].
pub fn short_conv_on(isa: Isa, a: &ShortConv<'_>, mut out: FloatsMut<'_>, mut next: FloatsMut<'_>) -> Result<()> {
    let [b, one, l, c] = a.x.dims;
    same("heads of x", 1, one)?;
    a.x.last_contiguous("x")?;
    if b == 0 || l == 0 || c == 0 || a.weight.is_empty() {
        return Err(Error::Unsupported { what: "shapes", why: "must not be empty" });
    }
    let taps = a.weight.len() / c;
    same("weight", c * taps, a.weight.len())?;
    same("bias", c, a.bias.map_or(c, |x| x.len()))?;
    same("out", b * l * c, out.len())?;
    let kept = b * (taps - 1) * c;
    same("tail", kept, a.tail.map_or(kept, |x| x.len()))?;
    same("next tail", kept, next.len())?;
    let (parts, pieces) = (l.div_ceil(TOKENS), c.div_ceil(CHANNELS));
    let (out, next) = (out.out(), next.out());
    parallel(b * parts * pieces, |i| {
        let (row, part, piece) = (i / (parts * pieces), i / pieces % parts, i % pieces);
        let (from, first) = (part * TOKENS, piece * CHANNELS);
        let (tokens, count) = (TOKENS.min(l - from), CHANNELS.min(c - first));
        // SAFETY: sizes were checked; tasks write their own tokens and channels.
        unsafe { isa.run(Piece { a: *a, taps, row, from, tokens, first, count, out, next }) }
    });
    Ok(())
}

/// Rounds floats to the numbers of a type.
#[inline(always)]
unsafe fn round<S: Simd>(dtype: DType, x: *mut f32, n: usize) {
    if dtype == DType::F32 {
        return;
    }
    unsafe {
        with_elem!(dtype, T => {
            let mut narrow = [const { std::mem::MaybeUninit::<T>::uninit() }; CHANNELS];
            narrow_row::<S, T>(x, narrow.as_mut_ptr().cast(), n);
            widen_row::<S, T>(narrow.as_ptr().cast(), x, n);
        })
    }
}

/// Some tokens and channels of one row of the batch.
struct Piece<'a> {
    a: ShortConv<'a>,
    taps: usize,
    row: usize,
    from: usize,
    tokens: usize,
    first: usize,
    count: usize,
    out: Out,
    next: Out,
}

impl Kernel for Piece<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let Piece { a, taps, row, from, tokens, first, count, out, next } = self;
            let ([_, _, l, c], keep) = (a.x.dims, taps - 1);
            let w = count.next_multiple_of(S::N);
            let mut temp = Temp::new((tokens + 2 * taps + 2) * w + taps * count);
            let all = temp.slice();
            all.fill(0.0);
            let all = Scratch(all.as_mut_ptr());
            let (x, weight, bias) = (all.at(0), all.at((tokens + keep) * w), all.at((tokens + keep + taps) * w));
            let sums = bias.add(w);
            let gates = sums.add(w);
            let stored = gates.add(w);
            widen::<S>(a.weight, first * taps, count * taps, stored);
            for (i, j) in (0..count).flat_map(|i| (0..taps).map(move |j| (i, j))) {
                *weight.add(j * w + i) = *stored.add(i * taps + j);
            }
            if let Some(b) = a.bias {
                widen::<S>(b, first, count, bias);
            }
            // input i of a row, counted from the start of its tail
            let input = |i: usize, to: *mut f32| match i.checked_sub(keep) {
                Some(t) => widen::<S>(a.x.data, row * a.x.strides[0] + t * a.x.strides[2] + first, count, to),
                None => match a.tail {
                    Some(tail) => widen::<S>(tail, (row * keep + i) * c + first, count, to),
                    None => std::slice::from_raw_parts_mut(to, count).fill(0.0),
                },
            };
            for t in 0..tokens + keep {
                input(from + t, x.add(t * w));
            }
            for t in 0..tokens {
                for j in (0..w).step_by(S::N) {
                    let mut y = S::load(bias.add(j));
                    for k in 0..taps {
                        y = S::fma(S::load(x.add((t + k) * w + j)), S::load(weight.add(k * w + j)), y);
                    }
                    S::store(sums.add(j), y);
                }
                if a.silu {
                    // rounded as a convolution, a sigmoid and a product would be
                    round::<S>(out.dtype, sums, count);
                    for j in (0..w).step_by(S::N) {
                        let minus = S::sub(S::splat(0.0), S::load(sums.add(j)));
                        S::store(gates.add(j), S::div(S::splat(1.0), S::add(S::splat(1.0), exp::<S>(minus))));
                    }
                    round::<S>(out.dtype, gates, count);
                    for j in (0..w).step_by(S::N) {
                        S::store(sums.add(j), S::mul(S::load(sums.add(j)), S::load(gates.add(j))));
                    }
                }
                let to = out.at((row * l + from + t) * c + first);
                with_elem!(out.dtype, T => narrow_row::<S, T>(sums, to.cast(), count));
            }
            if from + tokens == l {
                for i in 0..keep {
                    input(l + i, sums);
                    let to = next.at((row * keep + i) * c + first);
                    with_elem!(next.dtype, T => narrow_row::<S, T>(sums, to.cast(), count));
                }
            }
        }
    }
}
