//! Convolutions. Inputs are channels-last: x [N, spatial..., C], weights [O, kernel..., C / groups].

use crate::error::refuse;
use crate::{Array, PadMode, ffi};
use mlx_sys as sys;

/// Options of a convolution over `N` spatial axes.
///
/// ```
/// use mlx::{self as mx, Conv, Dtype};
/// let (x, w) = (mx::ones([1, 8, 8, 3], Dtype::Float32), mx::ones([4, 3, 3, 3], Dtype::Float32));
/// let y = mx::conv2d(&x, &w, Conv { stride: [2, 2], padding: [1, 1], ..Default::default() });
/// assert_eq!(y.shape(), [1, 4, 4, 4]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv<const N: usize> {
    pub stride: [i32; N],
    /// Zeros added on both sides.
    pub padding: [i32; N],
    pub dilation: [i32; N],
    /// Channels are split into so many independent groups.
    pub groups: i32,
}

impl<const N: usize> Default for Conv<N> {
    fn default() -> Self {
        Conv { stride: [1; N], padding: [0; N], dilation: [1; N], groups: 1 }
    }
}

/// Options of a transposed convolution over `N` spatial axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvTranspose<const N: usize> {
    pub stride: [i32; N],
    pub padding: [i32; N],
    pub dilation: [i32; N],
    /// Elements added at the end of each axis, to choose among the sizes that a stride maps to one.
    pub output_padding: [i32; N],
    pub groups: i32,
}

impl<const N: usize> Default for ConvTranspose<N> {
    fn default() -> Self {
        ConvTranspose { stride: [1; N], padding: [0; N], dilation: [1; N], output_padding: [0; N], groups: 1 }
    }
}

/// Options of [`conv_general`]; an empty list stands for the usual value, a list of one holds for all axes.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvGeneral<'a> {
    pub stride: &'a [i32],
    pub padding_low: &'a [i32],
    pub padding_high: &'a [i32],
    pub kernel_dilation: &'a [i32],
    pub input_dilation: &'a [i32],
    /// 0 stands for 1.
    pub groups: i32,
    /// Turns the kernel around, as mathematics define a convolution.
    pub flip: bool,
}

/// What MLX would divide by must not be zero, and what it multiplies must not overflow.
#[track_caller]
fn check(op: &str, x: &Array, w: &Array, spatial: usize, groups: i32, positive: &[&[i32]], padding: &[&[i32]]) {
    let bad = |why: &str| refuse(op, format!("{why}: input {:?}, weight {:?}", x.shape(), w.shape()));
    if x.ndim() != spatial + 2 || w.ndim() != spatial + 2 {
        bad(&format!("input and weight need {} axes", spatial + 2));
    }
    let (channels, outputs) = (x.dim(-1), w.dim(0));
    if groups < 1 || channels % groups != 0 || outputs % groups != 0 {
        bad(&format!("{groups} groups do not divide the channels"));
    }
    if positive.iter().any(|v| v.iter().any(|&i| !(1..1 << 20).contains(&i))) {
        bad("strides and dilations must be positive");
    }
    if padding.iter().any(|v| v.iter().any(|&i| !(0..1 << 24).contains(&i))) {
        bad("paddings must not be negative");
    }
    if w.size() == 0 || channels == 0 {
        bad("the weight and the channels must not be empty");
    }
}

macro_rules! convs {
    ($($(#[$doc:meta])* $name:ident = $c:ident, $n:literal [$($i:literal)*];)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(x: &Array, w: &Array, o: Conv<$n>) -> Array {
            check(stringify!($name), x, w, $n, o.groups, &[&o.stride, &o.dilation], &[&o.padding]);
            // SAFETY: valid handles
            ffi::op(stringify!($name), &[x, w], |res, s| unsafe {
                sys::$c(res, x.raw, w.raw, $(o.stride[$i],)* $(o.padding[$i],)* $(o.dilation[$i],)* o.groups, s)
            })
        }
    )* };
}
convs! {
    /// Convolution over one axis: x [N, L, C], w [O, K, C / groups].
    conv1d = mlx_conv1d, 1 [0];
    /// Convolution over two axes: x [N, H, W, C], w [O, KH, KW, C / groups].
    conv2d = mlx_conv2d, 2 [0 1];
    /// Convolution over three axes: x [N, D, H, W, C], w [O, KD, KH, KW, C / groups].
    conv3d = mlx_conv3d, 3 [0 1 2];
}

macro_rules! transposed {
    ($($(#[$doc:meta])* $name:ident = $c:ident, $n:literal [$($i:literal)*];)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(x: &Array, w: &Array, o: ConvTranspose<$n>) -> Array {
            let pads: [&[i32]; 2] = [&o.padding, &o.output_padding];
            check(stringify!($name), x, w, $n, o.groups, &[&o.stride, &o.dilation], &pads);
            // SAFETY: valid handles
            ffi::op(stringify!($name), &[x, w], |res, s| unsafe {
                sys::$c(
                    res, x.raw, w.raw, $(o.stride[$i],)* $(o.padding[$i],)* $(o.dilation[$i],)* $(o.output_padding[$i],)*
                    o.groups, s,
                )
            })
        }
    )* };
}
transposed! {
    /// Transposed convolution over one axis: x [N, L, C], w [O, K, C / groups].
    conv_transpose1d = mlx_conv_transpose1d, 1 [0];
    /// Transposed convolution over two axes.
    conv_transpose2d = mlx_conv_transpose2d, 2 [0 1];
    /// Transposed convolution over three axes.
    conv_transpose3d = mlx_conv_transpose3d, 3 [0 1 2];
}

/// Convolution over any number of axes, with dilation of the input and padding by side.
#[track_caller]
pub fn conv_general(x: &Array, w: &Array, o: ConvGeneral<'_>) -> Array {
    let spatial = x.ndim().saturating_sub(2);
    let all = |v: &[i32], default: i32| -> Vec<i32> {
        match v {
            [] => vec![default; spatial],
            [one] => vec![*one; spatial],
            v if v.len() == spatial => v.to_vec(),
            v => refuse("conv_general", format!("{v:?} does not fit {spatial} spatial axes")),
        }
    };
    let (stride, kernel, input) = (all(o.stride, 1), all(o.kernel_dilation, 1), all(o.input_dilation, 1));
    let (low, high) = (all(o.padding_low, 0), all(o.padding_high, 0));
    let groups = if o.groups == 0 { 1 } else { o.groups };
    check("conv_general", x, w, spatial, groups, &[&stride, &kernel, &input], &[&low, &high]);
    // SAFETY: valid handles; pointers and lengths of live vectors
    ffi::op("conv_general", &[x, w], |res, s| unsafe {
        sys::mlx_conv_general(
            res,
            x.raw,
            w.raw,
            stride.as_ptr(),
            spatial,
            low.as_ptr(),
            spatial,
            high.as_ptr(),
            spatial,
            kernel.as_ptr(),
            spatial,
            input.as_ptr(),
            spatial,
            groups,
            o.flip,
            s,
        )
    })
}

/// How much of the overlap [`convolve`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConvolveMode {
    /// Every overlap.
    #[default]
    Full,
    /// As long as the longer input.
    Same,
    /// Complete overlaps only.
    Valid,
}

/// The convolution of two vectors, as signal processing defines it (the shorter one is turned around).
#[track_caller]
pub fn convolve(a: &Array, v: &Array, mode: ConvolveMode) -> Array {
    if a.ndim() != 1 || v.ndim() != 1 || a.size() == 0 || v.size() == 0 {
        refuse("convolve", format!("two vectors that are not empty expected, not {:?} and {:?}", a.shape(), v.shape()));
    }
    let (long, short) = if a.size() < v.size() { (v, a) } else { (a, v) };
    let n = short.dim(0);
    let kernel = short.i(crate::step(.., -1)).reshape([1, -1, 1]);
    let mut x = long.reshape([1, -1, 1]);
    let padding = match mode {
        ConvolveMode::Full => n - 1,
        ConvolveMode::Valid => 0,
        ConvolveMode::Same if n % 2 == 1 => n / 2,
        ConvolveMode::Same => {
            x = crate::pad(&x, &[(0, 0), (n / 2, n / 2 - 1), (0, 0)], 0, PadMode::Constant);
            0
        }
    };
    conv1d(&x, &kernel, Conv { padding: [padding], ..Default::default() }).flatten(0, -1)
}
