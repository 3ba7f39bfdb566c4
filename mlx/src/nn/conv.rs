//! Convolution layers; inputs are channels-last.

use super::Module;
use super::module::Param;
use crate::error::refuse;
use crate::{Array, Conv, ConvTranspose, Dtype, random};

/// Uniform within 1 / sqrt(fan in), as Python initialises.
#[track_caller]
fn weight(output: i32, kernel: &[i32], input: i32, groups: i32) -> Array {
    if groups < 1 || input % groups != 0 {
        refuse("Conv", format!("{groups} groups do not divide {input} channels"));
    }
    let fan: f64 = kernel.iter().map(|&k| f64::from(k)).product::<f64>() * f64::from(input);
    let scale = (1.0 / fan).sqrt();
    let mut shape = vec![output];
    shape.extend(kernel);
    shape.push(input / groups);
    random::uniform(-scale, scale, shape, Dtype::Float32, None)
}

#[track_caller]
fn add_bias(y: Array, bias: &Option<Param>) -> Array {
    match bias {
        Some(b) => y + b.value(),
        None => y,
    }
}

macro_rules! convs {
    ($($(#[$doc:meta])* $name:ident, $op:ident, $n:literal, $options:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Module)]
        pub struct $name {
            pub weight: Param,
            pub bias: Option<Param>,
            #[module(skip)]
            pub options: $options<$n>,
        }

        impl $name {
            /// From a weight [O, kernel..., C / groups] and a bias `[O]`.
            pub fn new(weight: Array, bias: Option<Array>, options: $options<$n>) -> Self {
                $name { weight: weight.into(), bias: bias.map(Param::new), options }
            }

            /// A new layer: weight uniform within 1 / sqrt(fan in), bias zero.
            #[track_caller]
            pub fn init(input: i32, output: i32, kernel: [i32; $n], bias: bool, options: $options<$n>) -> Self {
                let weight = weight(output, &kernel, input, options.groups);
                $name::new(weight, bias.then(|| crate::zeros([output], Dtype::Float32)), options)
            }

            #[track_caller]
            pub fn forward(&self, x: &Array) -> Array {
                add_bias(crate::$op(x, &self.weight, self.options), &self.bias)
            }
        }
    )* };
}

convs! {
    /// Convolution of [N, L, C] (`nn.Conv1d`).
    Conv1d, conv1d, 1, Conv;
    /// Convolution of [N, H, W, C] (`nn.Conv2d`).
    Conv2d, conv2d, 2, Conv;
    /// Convolution of [N, D, H, W, C] (`nn.Conv3d`).
    Conv3d, conv3d, 3, Conv;
    /// Transposed convolution of [N, L, C] (`nn.ConvTranspose1d`).
    ConvTranspose1d, conv_transpose1d, 1, ConvTranspose;
    /// Transposed convolution of [N, H, W, C] (`nn.ConvTranspose2d`).
    ConvTranspose2d, conv_transpose2d, 2, ConvTranspose;
    /// Transposed convolution of [N, D, H, W, C] (`nn.ConvTranspose3d`).
    ConvTranspose3d, conv_transpose3d, 3, ConvTranspose;
}
