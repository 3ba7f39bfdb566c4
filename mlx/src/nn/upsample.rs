//! Resizing over the spatial axes of [N, spatial..., C].

use super::Module;
use crate::error::refuse;
use crate::{Array, Dtype, clip, where_};

/// How [`Upsample`] finds values between positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Module)]
pub enum UpsampleMode {
    #[default]
    Nearest,
    Linear,
    Cubic,
}

/// Resizes the spatial axes (`nn.Upsample`).
#[derive(Debug, Clone, Module)]
pub struct Upsample {
    /// One factor for all spatial axes, or one for each.
    #[module(skip)]
    pub scale_factor: Vec<f64>,
    pub mode: UpsampleMode,
    /// Corner positions of input and output coincide (linear and cubic).
    pub align_corners: bool,
    /// Widen the filter when shrinking (linear and cubic, without `align_corners`).
    pub antialias: bool,
}

impl Upsample {
    pub fn new(scale_factor: f64, mode: UpsampleMode) -> Self {
        Upsample { scale_factor: vec![scale_factor], mode, align_corners: false, antialias: false }
    }

    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        let dims = x.ndim().saturating_sub(2);
        let scales = match &self.scale_factor[..] {
            [one] => vec![*one; dims],
            each => each.to_vec(),
        };
        if dims == 0 || scales.len() != dims {
            refuse("Upsample", format!("{scales:?} are not the factors of an input of shape {:?}", x.shape()));
        }
        if scales.iter().any(|s| !(1e-6..1e6).contains(s)) {
            refuse("Upsample", format!("scale factors {scales:?}"));
        }
        if self.antialias && (self.align_corners || self.mode == UpsampleMode::Nearest) {
            refuse("Upsample", "antialias goes with linear or cubic mode, without align_corners");
        }
        match (self.mode, self.antialias) {
            (UpsampleMode::Nearest, _) => nearest(x, &scales),
            (UpsampleMode::Linear, true) => separable(x, &scales, triangle, 1.0),
            (UpsampleMode::Cubic, true) => separable(x, &scales, cubic, 2.0),
            (UpsampleMode::Linear, false) => interpolate(x, &scales, self.align_corners, linear_taps),
            (UpsampleMode::Cubic, false) => interpolate(x, &scales, self.align_corners, cubic_taps),
        }
    }
}

#[track_caller]
fn nearest(x: &Array, scales: &[f64]) -> Array {
    if scales.iter().all(|s| s.fract() == 0.0) {
        return scales.iter().enumerate().fold(x.clone(), |x, (i, s)| crate::repeat(&x, *s as i32, i as i32 + 1));
    }
    scales.iter().enumerate().fold(x.clone(), |x, (i, &scale)| {
        let axis = i as i32 + 1;
        let n = x.dim(axis);
        let m = (scale * f64::from(n)) as i32;
        let at = crate::arange(0, m, 1, Some(Dtype::Float32));
        let ratio = f64::from(n) / f64::from(m);
        let at = if m > n { ((at + 0.5) * ratio - 0.5).round(0) } else { at * ratio };
        x.take(&at.astype(Dtype::Uint32), axis)
    })
}

/// Where the outputs lie between the inputs of one axis.
#[track_caller]
fn positions(n: i32, scale: f64, align_corners: bool) -> Array {
    let m = (scale * f64::from(n)) as i32;
    let at = crate::arange(0, m, 1, Some(Dtype::Float32));
    if align_corners {
        return at * (f64::from(n - 1) / f64::from((m - 1).max(1)));
    }
    let step = 1.0 / scale;
    at * step - (f64::from(m - 1) * step - f64::from(n) + 1.0) / 2.0
}

/// Indices and weights of the neighbours of each output position.
type Taps = Vec<(Array, Array)>;

#[track_caller]
fn bound(index: &Array, n: i32) -> Array {
    clip(index, Some(0), Some(n - 1)).astype(Dtype::Uint32)
}

#[track_caller]
fn linear_taps(n: i32, scale: f64, align_corners: bool) -> Taps {
    let at = clip(positions(n, scale, align_corners), Some(0), Some(n - 1));
    let (left, right) = (at.floor(), at.ceil());
    let w = &at - &left;
    vec![(left.astype(Dtype::Uint32), 1 - &w), (right.astype(Dtype::Uint32), w)]
}

#[track_caller]
fn cubic_taps(n: i32, scale: f64, align_corners: bool) -> Taps {
    const A: f64 = -0.75;
    let at = positions(n, scale, align_corners);
    let (l1, r1) = (at.floor(), (&at + 1).floor());
    let near = |grid: &Array| {
        let x = (&at - grid).abs();
        ((&x * (A + 2.0)) - (A + 3.0)) * &x * &x + 1
    };
    let far = |grid: &Array| {
        let x = (&at - grid).abs();
        (((&x - 5) * &x + 8) * &x - 4) * A
    };
    let (l2, r2) = (&l1 - 1, &r1 + 1);
    let taps = [(near(&l1), l1), (near(&r1), r1), (far(&l2), l2), (far(&r2), r2)];
    taps.into_iter().map(|(w, grid)| (bound(&grid, n), w)).collect()
}

/// `w` along `axis` of an array with `ndim` axes.
#[track_caller]
fn along(w: &Array, axis: usize, ndim: usize) -> Array {
    let mut shape = vec![1; ndim];
    shape[axis] = -1;
    w.reshape(shape)
}

/// The weighted sum over all combinations of neighbours.
#[track_caller]
fn interpolate(x: &Array, scales: &[f64], align_corners: bool, taps: fn(i32, f64, bool) -> Taps) -> Array {
    let axes: Vec<Taps> =
        scales.iter().enumerate().map(|(i, s)| taps(x.dim(i as i32 + 1), *s, align_corners)).collect();
    let mut parts: Vec<(Array, Option<Array>)> = vec![(x.clone(), None)];
    for (i, taps) in axes.iter().enumerate() {
        let mut next = Vec::with_capacity(parts.len() * taps.len());
        for (sample, weight) in &parts {
            for (index, w) in taps {
                let w = along(w, i + 1, x.ndim());
                let w = weight.as_ref().map_or_else(|| w.clone(), |weight| weight * &w);
                next.push((sample.take(index, i as i32 + 1), Some(w)));
            }
        }
        parts = next;
    }
    let weighted = parts.into_iter().map(|(sample, w)| match w {
        Some(w) => w * sample,
        None => sample,
    });
    sum(weighted)
}

#[track_caller]
fn sum(mut terms: impl Iterator<Item = Array>) -> Array {
    match terms.next().map(|first| terms.fold(first, |a, b| a + b)) {
        Some(total) => total,
        None => refuse("Upsample", "nothing to add"),
    }
}

#[track_caller]
fn triangle(x: &Array) -> Array {
    (1.0 - x).maximum(0.0)
}

#[track_caller]
fn cubic(x: &Array) -> Array {
    const A: f64 = -0.5;
    let inner = ((x * (A + 2.0)) - (A + 3.0)) * x * x + 1;
    let outer = (((x - 5) * x + 8) * x - 4) * A;
    where_(x.le(1.0), inner, where_(x.le(2.0), outer, 0.0))
}

/// One axis after the other, with a filter that is as wide as the shrinking asks for.
#[track_caller]
fn separable(x: &Array, scales: &[f64], kernel: fn(&Array) -> Array, radius: f64) -> Array {
    scales.iter().enumerate().fold(x.clone(), |x, (i, &scale)| {
        let axis = i as i32 + 1;
        let n = x.dim(axis);
        let at = positions(n, scale, false);
        let widen = if scale < 1.0 { 1.0 / scale } else { 1.0 };
        let taps = (radius * widen).ceil() as i32 + 1;
        let base = at.floor();
        let tap = |k: i32| {
            let index = &base + k;
            let w = kernel(&((&at - &index).abs() / widen));
            let inside = index.ge(0).logical_and(index.lt(n));
            (index, where_(inside, w, 0.0))
        };
        let all: Taps = (1 - taps..taps).map(tap).collect();
        let total = sum(all.iter().map(|(_, w)| w.clone()));
        let total = where_(total.gt(0), &total, 1.0);
        let parts = all.iter().map(|(index, w)| {
            let w = along(&(w / &total), i + 1, x.ndim());
            x.take(&bound(index, n), axis) * w
        });
        sum(parts.collect::<Vec<_>>().into_iter())
    })
}
