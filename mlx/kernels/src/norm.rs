//! Row-wise normalisations: RMS norm, fused residual + RMS norm, layer norm, softmax. Rows are contiguous; sums are f32.

use crate::data::{Floats, FloatsMut, Out, Scratch};
use crate::error::{Result, room, same};
use crate::isa::{Isa, Kernel};
use crate::pool::parallel;
use crate::scratch::Temp;
use crate::simd::{Simd, exp, narrow_row, widen_row, with_elem};

/// Elements that one task should have at least.
const GRAIN: usize = 16 << 10;

/// `out[rows, dim] = x / sqrt(mean(x^2) + eps) * weight` (weight `[dim]` or 1). MLX: `fast.rms_norm`.
///
/// # Errors
/// Sizes that do not fit together.
pub fn rms_norm(x: Floats<'_>, dim: usize, weight: Option<Floats<'_>>, eps: f32, out: FloatsMut<'_>) -> Result<()> {
    rms_norm_on(Isa::best(), x, dim, weight, eps, out)
}

/// [`rms_norm`] with a given instruction set.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_on(
    isa: Isa,
    x: Floats<'_>,
    dim: usize,
    weight: Option<Floats<'_>>,
    eps: f32,
    out: FloatsMut<'_>,
) -> Result<()> {
    run(isa, Form::Rms { weight, eps }, x, None, dim, out, None)
}

/// `sum = x + y` (rounded to its type), `out = rms_norm(sum)`: the residual and the norm after it in one pass.
///
/// # Errors
/// Sizes that do not fit together.
pub fn add_rms_norm(
    x: Floats<'_>,
    y: Floats<'_>,
    dim: usize,
    weight: Option<Floats<'_>>,
    eps: f32,
    sum: FloatsMut<'_>,
    out: FloatsMut<'_>,
) -> Result<()> {
    add_rms_norm_on(Isa::best(), x, y, dim, weight, eps, sum, out)
}

/// [`add_rms_norm`] with a given instruction set.
///
/// # Errors
/// As [`add_rms_norm`].
#[allow(clippy::too_many_arguments)]
pub fn add_rms_norm_on(
    isa: Isa,
    x: Floats<'_>,
    y: Floats<'_>,
    dim: usize,
    weight: Option<Floats<'_>>,
    eps: f32,
    sum: FloatsMut<'_>,
    out: FloatsMut<'_>,
) -> Result<()> {
    same("second summand", x.len(), y.len())?;
    run(isa, Form::Rms { weight, eps }, x, Some(y), dim, out, Some(sum))
}

/// `out[rows, dim] = (x - mean) / sqrt(var + eps) * weight + bias`. MLX: `fast.layer_norm`.
///
/// # Errors
/// Sizes that do not fit together.
pub fn layer_norm(
    x: Floats<'_>,
    dim: usize,
    weight: Option<Floats<'_>>,
    bias: Option<Floats<'_>>,
    eps: f32,
    out: FloatsMut<'_>,
) -> Result<()> {
    layer_norm_on(Isa::best(), x, dim, weight, bias, eps, out)
}

/// [`layer_norm`] with a given instruction set.
///
/// # Errors
/// As [`layer_norm`].
pub fn layer_norm_on(
    isa: Isa,
    x: Floats<'_>,
    dim: usize,
    weight: Option<Floats<'_>>,
    bias: Option<Floats<'_>>,
    eps: f32,
    out: FloatsMut<'_>,
) -> Result<()> {
    run(isa, Form::Layer { weight, bias, eps }, x, None, dim, out, None)
}

/// `out[rows, dim] = softmax(x)` along rows. MLX: `softmax(axis=-1, precise=True)`.
///
/// # Errors
/// Sizes that do not fit together.
pub fn softmax(x: Floats<'_>, dim: usize, out: FloatsMut<'_>) -> Result<()> {
    softmax_on(Isa::best(), x, dim, out)
}

/// [`softmax`] with a given instruction set.
///
/// # Errors
/// As [`softmax`].
pub fn softmax_on(isa: Isa, x: Floats<'_>, dim: usize, out: FloatsMut<'_>) -> Result<()> {
    run(isa, Form::Softmax, x, None, dim, out, None)
}

#[derive(Clone, Copy)]
enum Form<'a> {
    Rms { weight: Option<Floats<'a>>, eps: f32 },
    Layer { weight: Option<Floats<'a>>, bias: Option<Floats<'a>>, eps: f32 },
    Softmax,
}

fn run(
    isa: Isa,
    form: Form<'_>,
    x: Floats<'_>,
    y: Option<Floats<'_>>,
    dim: usize,
    mut out: FloatsMut<'_>,
    mut sum: Option<FloatsMut<'_>>,
) -> Result<()> {
    if x.is_empty() {
        return Ok(());
    }
    let rows = x.len().checked_div(dim).unwrap_or(0);
    same("elements of x (whole rows)", rows * dim, x.len())?;
    room("out", Some(x.len()), out.len())?;
    if let Some(s) = &sum {
        room("sum", Some(x.len()), s.len())?;
    }
    let (weight, bias) = match form {
        Form::Rms { weight, .. } => (weight, None),
        Form::Layer { weight, bias, .. } => (weight, bias),
        Form::Softmax => (None, None),
    };
    // weight and bias in f32 once, not per row
    let mut params = Temp::new(2 * dim);
    let (w, b) = (Scratch(params.ptr()), Scratch(params.ptr().wrapping_add(dim)));
    for (p, at) in [(weight, w), (bias, b)] {
        if let Some(p) = p {
            room("weight or bias", Some(dim), p.len())?;
            // SAFETY: dim elements on both sides.
            unsafe { isa.run(WidenAll { src: p, n: dim, dst: at.at(0) }) };
        }
    }
    let out = out.out();
    let sum = sum.as_mut().map(FloatsMut::out);
    let per = GRAIN.div_ceil(dim);
    parallel(rows.div_ceil(per), |i| {
        let (r0, r1) = (i * per, (i * per + per).min(rows));
        let weight = weight.map(|_| w.at(0).cast_const());
        let bias = bias.map(|_| b.at(0).cast_const());
        // SAFETY: sizes were checked; tasks write their own rows.
        unsafe { isa.run(Rows { form, x, y, dim, r0, r1, weight, bias, out, sum }) }
    });
    Ok(())
}

struct WidenAll<'a> {
    src: Floats<'a>,
    n: usize,
    dst: *mut f32,
}

impl Kernel for WidenAll<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe { crate::decode::widen::<S>(self.src, 0, self.n, self.dst) }
    }
}

struct Rows<'a> {
    form: Form<'a>,
    x: Floats<'a>,
    y: Option<Floats<'a>>,
    dim: usize,
    r0: usize,
    r1: usize,
    weight: Option<*const f32>,
    bias: Option<*const f32>,
    out: Out,
    sum: Option<Out>,
}

impl Kernel for Rows<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let (dim, body) = (self.dim, self.dim / S::N * S::N);
            let mut temp = Temp::new(2 * dim);
            let row = temp.ptr();
            let other = row.add(dim);
            for r in self.r0..self.r1 {
                let at = r * dim;
                with_elem!(self.x.dtype(), T => widen_row::<S, T>(self.x.at(at).cast(), row, dim));
                if let (Some(y), Some(sum)) = (self.y, self.sum) {
                    with_elem!(y.dtype(), T => widen_row::<S, T>(y.at(at).cast(), other, dim));
                    for i in 0..dim {
                        *row.add(i) += *other.add(i);
                    }
                    with_elem!(sum.dtype, T => {
                        narrow_row::<S, T>(row, sum.at(at).cast(), dim);
                        widen_row::<S, T>(sum.at(at).cast(), row, dim);
                    });
                }
                match self.form {
                    Form::Rms { eps, .. } => {
                        let mut acc = [S::splat(0.0); 4];
                        let mut i = 0;
                        while i < body {
                            let v = S::load(row.add(i));
                            let a = &mut acc[i / S::N % 4];
                            *a = S::fma(v, v, *a);
                            i += S::N;
                        }
                        let mut square = S::sum(S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3])));
                        for i in body..dim {
                            square += *row.add(i) * *row.add(i);
                        }
                        let f = 1.0 / (square / dim as f32 + eps).sqrt();
                        self.scale::<S>(row, 0.0, f);
                    }
                    Form::Layer { eps, .. } => {
                        let mut acc = S::splat(0.0);
                        for i in (0..body).step_by(S::N) {
                            acc = S::add(acc, S::load(row.add(i)));
                        }
                        let mut mean = S::sum(acc);
                        for i in body..dim {
                            mean += *row.add(i);
                        }
                        mean /= dim as f32;
                        let mut acc = S::splat(0.0);
                        for i in (0..body).step_by(S::N) {
                            let v = S::sub(S::load(row.add(i)), S::splat(mean));
                            acc = S::fma(v, v, acc);
                        }
                        let mut var = S::sum(acc);
                        for i in body..dim {
                            var += (*row.add(i) - mean) * (*row.add(i) - mean);
                        }
                        self.scale::<S>(row, mean, 1.0 / (var / dim as f32 + eps).sqrt());
                    }
                    Form::Softmax => {
                        let mut top = S::splat(f32::NEG_INFINITY);
                        for i in (0..body).step_by(S::N) {
                            top = S::max(top, S::load(row.add(i)));
                        }
                        let mut top = S::max_lane(top);
                        for i in body..dim {
                            top = top.max(*row.add(i));
                        }
                        let mut acc = S::splat(0.0);
                        for i in (0..body).step_by(S::N) {
                            let e = exp::<S>(S::sub(S::load(row.add(i)), S::splat(top)));
                            S::store(row.add(i), e);
                            acc = S::add(acc, e);
                        }
                        let mut sum = S::sum(acc);
                        for i in body..dim {
                            *row.add(i) = (*row.add(i) - top).exp();
                            sum += *row.add(i);
                        }
                        self.scale::<S>(row, 0.0, 1.0 / sum);
                    }
                }
                with_elem!(self.out.dtype, T => narrow_row::<S, T>(row, self.out.at(at).cast(), dim));
            }
        }
    }
}

impl Rows<'_> {
    /// row = (row - mean) * f * weight + bias
    #[inline(always)]
    unsafe fn scale<S: Simd>(&self, row: *mut f32, mean: f32, f: f32) {
        unsafe {
            let mut i = 0;
            while i + S::N <= self.dim {
                let mut v = S::mul(S::sub(S::load(row.add(i)), S::splat(mean)), S::splat(f));
                if let Some(w) = self.weight {
                    v = S::mul(v, S::load(w.add(i)));
                }
                if let Some(b) = self.bias {
                    v = S::add(v, S::load(b.add(i)));
                }
                S::store(row.add(i), v);
                i += S::N;
            }
            while i < self.dim {
                let v = (*row.add(i) - mean) * f;
                *row.add(i) = v * self.weight.map_or(1.0, |w| *w.add(i)) + self.bias.map_or(0.0, |b| *b.add(i));
                i += 1;
            }
        }
    }
}
