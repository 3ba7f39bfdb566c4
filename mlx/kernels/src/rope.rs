//! Rotary position embedding.

use crate::data::{Floats, Out, Scratch, View4, View4Mut};
use crate::error::{Error, Result, room, same};
use crate::isa::{Isa, Kernel};
use crate::pool::parallel;
use crate::scratch::Temp;
use crate::simd::{Simd, narrow_row, widen_row, with_elem};

/// Angular frequencies of the pairs.
#[derive(Debug, Clone, Copy)]
pub enum Freqs<'a> {
    /// Pair j turns by `base^(-2j / dims)` per position.
    Base(f32),
    /// Pair j turns by `1 / freqs[j]` per position (MLX's meaning of `freqs`).
    Periods(Floats<'a>),
}

/// Arguments of [`rope`].
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// Leading elements of a head that are rotated (even); the rest is copied.
    pub dims: usize,
    /// Pairs are neighbours (2j, 2j + 1) instead of halves (j, j + dims / 2).
    pub traditional: bool,
    /// Frequencies.
    pub freqs: Freqs<'a>,
    /// Factor of positions.
    pub scale: f32,
    /// Position of the first token: one for all, or one per batch row.
    pub offsets: &'a [i32],
}

/// `out = rope(x)` for x `[B, H, L, D]`; token l of batch row b is at position `offsets[b] + l`. MLX: `fast.rope`.
///
/// # Errors
/// Shapes that do not fit together, odd or too many dims, offsets for another batch size.
pub fn rope(x: &View4<'_>, r: &Rope<'_>, out: View4Mut<'_>) -> Result<()> {
    rope_on(Isa::best(), x, r, out)
}

/// [`rope`] with a given instruction set.
///
/// # Errors
/// As [`rope`].
pub fn rope_on(isa: Isa, x: &View4<'_>, r: &Rope<'_>, mut out: View4Mut<'_>) -> Result<()> {
    let [b, h, l, d] = x.dims;
    for i in 0..4 {
        same("output of rope", x.dims[i], out.dims[i])?;
    }
    x.last_contiguous("x")?;
    if !r.dims.is_multiple_of(2) || r.dims > d {
        return Err(Error::Unsupported { what: "dims", why: "must be even and at most the head size" });
    }
    if r.offsets.len() != 1 && r.offsets.len() != b {
        return Err(Error::Size { what: "offsets", expected: b, got: r.offsets.len() });
    }
    let half = r.dims / 2;
    let inverse: Vec<f32> = match r.freqs {
        Freqs::Base(base) => (0..half).map(|j| f64::from(base).powf(-2.0 * j as f64 / r.dims as f64) as f32).collect(),
        Freqs::Periods(p) => {
            room("freqs", Some(half), p.len())?;
            (0..half).map(|j| 1.0 / p.get(j).unwrap_or(1.0)).collect()
        }
    };
    if b * h * l * d == 0 {
        return Ok(());
    }
    // cosines and sines of each position once, for all heads
    let tables = r.offsets.len();
    let mut temp = Temp::new(tables * l * r.dims);
    let table = Scratch(temp.ptr());
    let per = (4096 / r.dims.max(1)).max(1);
    parallel((tables * l).div_ceil(per), |i| {
        for p in i * per..(i * per + per).min(tables * l) {
            let position = (r.offsets[p / l] as f32 + (p % l) as f32) * r.scale;
            let angles = Angles { inverse: &inverse, position, dst: table.at(p * r.dims) };
            // SAFETY: the table has 2 * half floats per position.
            unsafe { isa.run(angles) }
        }
    });
    let (out, strides) = out.rows();
    // tasks over batch rows and positions; all heads of a position share its angles
    let per = (8192 / (h * d)).max(1);
    parallel((b * l).div_ceil(per), |i| {
        for p in i * per..(i * per + per).min(b * l) {
            let (bi, li) = (p / l, p % l);
            let at = if tables == 1 { li } else { bi * l + li };
            let job = Turn { x, r, b: bi, l: li, table: table.at(at * r.dims), out, strides };
            // SAFETY: views were checked; each task writes its own rows.
            unsafe { isa.run(job) }
        }
    });
    Ok(())
}

/// Cosines, then sines, of one position.
struct Angles<'a> {
    inverse: &'a [f32],
    position: f32,
    dst: *mut f32,
}

impl Kernel for Angles<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.inverse.len();
        for (j, f) in self.inverse.iter().enumerate() {
            // the angle is an f32, as everywhere else; its sine and cosine are exact to the last bit or so
            let (s, c) = sin_cos(f64::from(self.position * f));
            unsafe {
                *self.dst.add(j) = c;
                *self.dst.add(n + j) = s;
            }
        }
    }
}

/// Branch-free sine and cosine for |x| < 1e9, so that the compiler can do several at once.
#[inline(always)]
pub(crate) fn sin_cos(x: f64) -> (f32, f32) {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: adding it rounds to an integer in the low bits
    let t = x * std::f64::consts::FRAC_2_PI + ROUND;
    let quadrant = t.to_bits();
    let n = t - ROUND;
    // pi / 2 in two parts
    let r = x - n * 1.570_796_326_734_125_6 - n * 6.077_100_506_506_192e-11;
    let z = r * r;
    let s = r
        * (1.0
            + z * (-1.0 / 6.0
                + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z * (1.0 / 362_880.0 + z * (-1.0 / 39_916_800.0))))));
    let c = 1.0
        + z * (-0.5
            + z * (1.0 / 24.0
                + z * (-1.0 / 720.0 + z * (1.0 / 40_320.0 + z * (-1.0 / 3_628_800.0 + z * (1.0 / 479_001_600.0))))));
    let (a, b) = if quadrant & 1 == 0 { (s, c) } else { (c, s) };
    let sin = f64::from_bits(a.to_bits() ^ (quadrant & 2) << 62);
    let cos = f64::from_bits(b.to_bits() ^ (quadrant.wrapping_add(1) & 2) << 62);
    (sin as f32, cos as f32)
}

/// All heads of one token.
struct Turn<'a> {
    x: &'a View4<'a>,
    r: &'a Rope<'a>,
    b: usize,
    l: usize,
    table: *const f32,
    out: Out,
    strides: [usize; 4],
}

impl Kernel for Turn<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let [_, heads, _, d] = self.x.dims;
            let half = self.r.dims / 2;
            let (cos, sin) = (self.table, self.table.add(half));
            let mut temp = Temp::new(2 * d);
            let row = temp.ptr();
            let turned = row.add(d);
            for h in 0..heads {
                let src = self.x.row(self.b, h, self.l);
                with_elem!(self.x.data.dtype(), T => widen_row::<S, T>(src.cast(), row, d));
                if self.r.traditional {
                    for j in 0..half {
                        let (a, b, c, s) = (*row.add(2 * j), *row.add(2 * j + 1), *cos.add(j), *sin.add(j));
                        *turned.add(2 * j) = a * c - b * s;
                        *turned.add(2 * j + 1) = a * s + b * c;
                    }
                } else {
                    let mut j = 0;
                    while j + S::N <= half {
                        let (a, b) = (S::load(row.add(j)), S::load(row.add(half + j)));
                        let (c, s) = (S::load(cos.add(j)), S::load(sin.add(j)));
                        S::store(turned.add(j), S::sub(S::mul(a, c), S::mul(b, s)));
                        S::store(turned.add(half + j), S::fma(a, s, S::mul(b, c)));
                        j += S::N;
                    }
                    while j < half {
                        let (a, b, c, s) = (*row.add(j), *row.add(half + j), *cos.add(j), *sin.add(j));
                        *turned.add(j) = a * c - b * s;
                        *turned.add(half + j) = a * s + b * c;
                        j += 1;
                    }
                }
                std::ptr::copy_nonoverlapping(row.add(self.r.dims), turned.add(self.r.dims), d - self.r.dims);
                let at = self.b * self.strides[0] + h * self.strides[1] + self.l * self.strides[2];
                with_elem!(self.out.dtype, T => narrow_row::<S, T>(turned, self.out.at(at).cast(), d));
            }
        }
    }
}
