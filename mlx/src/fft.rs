//! Fourier transforms (`mlx.core.fft`), always computed in complex64.

use crate::error::refuse;
use crate::shape::Axes;
use crate::{Array, ffi};
use mlx_sys as sys;

/// Which direction divides by the number of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Norm {
    /// The inverse transform.
    #[default]
    Backward,
    /// Both, by the square root.
    Ortho,
    /// The forward transform.
    Forward,
}

impl Norm {
    /// Python's name: `"ortho"`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "backward" => Some(Norm::Backward),
            "ortho" => Some(Norm::Ortho),
            "forward" => Some(Norm::Forward),
            _ => None,
        }
    }
    fn raw(self) -> sys::mlx_fft_norm {
        match self {
            Norm::Backward => sys::MLX_FFT_NORM_BACKWARD,
            Norm::Ortho => sys::MLX_FFT_NORM_ORTHO,
            Norm::Forward => sys::MLX_FFT_NORM_FORWARD,
        }
    }
}

/// Options of a transform over several axes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fftn<'a> {
    /// Points on each axis, by cutting or padding with zeros; `None` takes the sizes as they are.
    pub s: Option<&'a [i32]>,
    /// The axes; `None` takes the last ones, as many as `s` has, or all (the last two for the `2` functions).
    pub axes: Option<&'a [i32]>,
    pub norm: Norm,
}

/// Whether real numbers stand on one side.
#[derive(Clone, Copy, PartialEq)]
enum Real {
    No,
    /// The output, of which only half a spectrum comes in.
    Out,
}

/// Points on one axis: `n`, else the size (twice as many less two where half a spectrum comes in).
#[track_caller]
fn points(op: &str, a: &Array, n: Option<i32>, axis: i32, real: Real) -> i32 {
    let n = n.unwrap_or_else(|| if real == Real::Out { 2 * (a.dim(axis) - 1) } else { a.dim(axis) });
    if n < 1 {
        refuse(op, format!("{n} points on axis {axis} of shape {:?}", a.shape()));
    }
    n
}

macro_rules! one_axis {
    ($($(#[$doc:meta])* $name:ident = $c:ident, $real:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array, n: Option<i32>, axis: i32, norm: Norm) -> Array {
            let n = points(stringify!($name), a, n, axis, Real::$real);
            // SAFETY: valid handles; n is positive and the axis in range
            ffi::op(stringify!($name), &[a], |res, s| unsafe { sys::$c(res, a.raw, n, axis, norm.raw(), s) })
        }
    )* };
}
one_axis! {
    /// Transform along `axis` with `n` points (`None`: all of them).
    fft = mlx_fft_fft, No;
    /// Inverse transform along `axis`.
    ifft = mlx_fft_ifft, No;
    /// Transform of real numbers: the first n / 2 + 1 points.
    rfft = mlx_fft_rfft, No;
    /// Inverse of [`rfft`]: `n` real points (`None`: 2 (m - 1) of m).
    irfft = mlx_fft_irfft, Out;
}

macro_rules! many_axes {
    ($($(#[$doc:meta])* $name:ident = $c:ident, $real:ident, $default:expr;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array, o: Fftn<'_>) -> Array {
            let op = stringify!($name);
            let default: Option<i32> = $default;
            let count = o.s.map(|s| s.len() as i32).or(default).unwrap_or(a.ndim() as i32);
            let axes: Vec<i32> = match o.axes {
                Some(axes) => axes.to_vec(),
                None => (-default.unwrap_or(count)..0).collect(),
            };
            if axes.is_empty() || o.s.is_some_and(|s| s.len() != axes.len()) {
                refuse(op, format!("{:?} points on axes {axes:?} of shape {:?}", o.s, a.shape()));
            }
            let last = axes.len() - 1;
            let n: Vec<i32> = axes.iter().enumerate().map(|(i, &axis)| {
                let real = if i == last { Real::$real } else { Real::No };
                points(op, a, o.s.map(|s| s[i]), axis, real)
            }).collect();
            // SAFETY: valid handles; pointers and lengths of live vectors; points are positive and axes in range
            ffi::op(op, &[a], |res, s| unsafe {
                sys::$c(res, a.raw, n.as_ptr(), n.len(), axes.as_ptr(), axes.len(), o.norm.raw(), s)
            })
        }
    )* };
}
many_axes! {
    /// Transform over two axes.
    fft2 = mlx_fft_fft2, No, Some(2);
    /// Inverse transform over two axes.
    ifft2 = mlx_fft_ifft2, No, Some(2);
    /// Transform of real numbers over two axes, half of the last.
    rfft2 = mlx_fft_rfft2, No, Some(2);
    /// Inverse of [`rfft2`].
    irfft2 = mlx_fft_irfft2, Out, Some(2);
    /// Transform over several axes.
    fftn = mlx_fft_fftn, No, None;
    /// Inverse transform over several axes.
    ifftn = mlx_fft_ifftn, No, None;
    /// Transform of real numbers over several axes, half of the last.
    rfftn = mlx_fft_rfftn, No, None;
    /// Inverse of [`rfftn`].
    irfftn = mlx_fft_irfftn, Out, None;
}

macro_rules! shifts {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array, axes: impl Into<Axes>) -> Array {
            let axes = crate::ops::resolve(stringify!($name), a, axes);
            // SAFETY: valid handles; pointer and length of a live slice
            ffi::op(stringify!($name), &[a], |res, s| unsafe { sys::$c(res, a.raw, axes.as_ptr(), axes.len(), s) })
        }
    )* };
}
shifts! {
    /// Moves frequency zero into the middle of the axes (`()`: of all).
    fftshift = mlx_fft_fftshift;
    /// Undoes [`fftshift`].
    ifftshift = mlx_fft_ifftshift;
}

macro_rules! frequencies {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(n: i32, d: f64) -> Array {
            // SAFETY: plain numbers
            ffi::op(stringify!($name), &[], |res, s| unsafe { sys::$c(res, n, d, s) })
        }
    )* };
}
frequencies! {
    /// Frequencies of the points of [`fft`] for `n` samples `d` apart.
    fftfreq = mlx_fft_fftfreq;
    /// Frequencies of the points of [`rfft`].
    rfftfreq = mlx_fft_rfftfreq;
}
