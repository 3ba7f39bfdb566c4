//! Pooling over sliding windows; inputs are channels-last.

use super::Module;
use crate::error::refuse;
use crate::{Array, PadMode, as_strided, contiguous};

/// x [N, spatial..., C] as windows [N, places..., window..., C].
#[track_caller]
fn sliding_windows(x: &Array, window: &[i32], stride: &[i32]) -> Array {
    let n = window.len();
    let spatial: Vec<i32> = x.shape()[1..=n].to_vec();
    if spatial.iter().zip(window).any(|(size, w)| size < w) {
        refuse("pool", format!("a window of {window:?} does not fit into {:?}", x.shape()));
    }
    let (batch, channels) = (x.dim(0), x.dim(-1));
    if (0..n).all(|i| window[i] == stride[i] && spatial[i] % window[i] == 0) {
        // windows side by side are a reshape
        let mut shape = vec![batch];
        (0..n).for_each(|i| shape.extend([spatial[i] / window[i], window[i]]));
        shape.push(channels);
        let last = shape.len() as i32 - 1;
        let order: Vec<i32> =
            std::iter::once(0).chain((1..last).step_by(2)).chain((2..last).step_by(2)).chain([last]).collect();
        return x.reshape(shape).transpose(order);
    }
    let mut strides = vec![1i64; n + 2];
    (0..=n).rev().for_each(|i| strides[i] = strides[i + 1] * i64::from(x.shape()[i + 1]));
    let places = (0..n).map(|i| (spatial[i] - window[i]) / stride[i] + 1);
    let shape: Vec<i32> =
        std::iter::once(batch).chain(places).chain(window.iter().copied()).chain([channels]).collect();
    let steps = (0..n).map(|i| strides[i + 1] * i64::from(stride[i]));
    let view: Vec<i64> = std::iter::once(strides[0]).chain(steps).chain(strides[1..].iter().copied()).collect();
    // SAFETY: the array is row-contiguous, and the last element of the last window on each axis,
    // (places - 1) * stride + window - 1 < size, lies inside it
    unsafe { as_strided(&contiguous(x), shape, &view, 0) }
}

#[track_caller]
fn windows(name: &str, x: &Array, kernel: &[i32], stride: &[i32], padding: &[i32], value: f64) -> (Array, Vec<i32>) {
    let n = kernel.len();
    if x.ndim() != n + 2 {
        refuse(name, format!("an input of {} axes expected, not {:?}", n + 2, x.shape()));
    }
    if kernel.iter().chain(stride).any(|&v| v < 1) || padding.iter().any(|&p| p < 0) {
        refuse(
            name,
            format!("kernel {kernel:?} and stride {stride:?} must be positive, padding {padding:?} not negative"),
        );
    }
    let padded;
    let x = if padding.iter().any(|&p| p > 0) {
        let widths: Vec<(i32, i32)> =
            std::iter::once((0, 0)).chain(padding.iter().map(|&p| (p, p))).chain([(0, 0)]).collect();
        padded = crate::pad(x, &widths, value, PadMode::Constant);
        &padded
    } else {
        x
    };
    (sliding_windows(x, kernel, stride), (-(n as i32) - 1..-1).collect())
}

macro_rules! pools {
    ($($(#[$doc:meta])* $name:ident, $n:literal, $op:ident, $pad:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Module)]
        pub struct $name {
            #[module(skip)]
            pub kernel_size: [i32; $n],
            #[module(skip)]
            pub stride: [i32; $n],
            #[module(skip)]
            pub padding: [i32; $n],
        }

        impl $name {
            /// Windows side by side.
            pub fn new(kernel_size: [i32; $n]) -> Self {
                $name { kernel_size, stride: kernel_size, padding: [0; $n] }
            }

            #[track_caller]
            pub fn forward(&self, x: &Array) -> Array {
                let (w, axes) = windows(stringify!($name), x, &self.kernel_size, &self.stride, &self.padding, $pad);
                w.$op(axes)
            }
        }
    )* };
}

pools! {
    /// Largest element of each window of [N, L, C] (`nn.MaxPool1d`).
    MaxPool1d, 1, max, f64::NEG_INFINITY;
    /// Largest element of each window of [N, H, W, C] (`nn.MaxPool2d`).
    MaxPool2d, 2, max, f64::NEG_INFINITY;
    /// Largest element of each window of [N, D, H, W, C] (`nn.MaxPool3d`).
    MaxPool3d, 3, max, f64::NEG_INFINITY;
    /// Mean of each window of [N, L, C], padding included (`nn.AvgPool1d`).
    AvgPool1d, 1, mean, 0.0;
    /// Mean of each window of [N, H, W, C], padding included (`nn.AvgPool2d`).
    AvgPool2d, 2, mean, 0.0;
    /// Mean of each window of [N, D, H, W, C], padding included (`nn.AvgPool3d`).
    AvgPool3d, 3, mean, 0.0;
}
