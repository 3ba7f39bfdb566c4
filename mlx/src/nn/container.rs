//! Layers in a row.

use super::module::{Module, Param, Path};
use crate::Array;

/// A layer from one array to one array: what [`Sequential`] holds.
pub trait Layer: Module {
    #[track_caller]
    fn forward(&self, x: &Array) -> Array;
}

macro_rules! layers {
    ($($t:ident),*) => { $(
        impl Layer for super::$t {
            fn forward(&self, x: &Array) -> Array { super::$t::forward(self, x) }
        }
    )* };
}
layers!(
    Linear,
    Embedding,
    RmsNorm,
    LayerNorm,
    InstanceNorm,
    GroupNorm,
    BatchNorm,
    Dropout,
    Dropout2d,
    Dropout3d,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    Upsample,
    QQLinear,
    SinusoidalPositionalEncoding
);

impl Layer for super::Rope {
    fn forward(&self, x: &Array) -> Array {
        super::Rope::forward(self, x, 0)
    }
}

impl<L: Layer + ?Sized> Layer for Box<L> {
    fn forward(&self, x: &Array) -> Array {
        (**self).forward(x)
    }
}

/// A function as a layer: `Function(|x: &Array| x.reshape([-1, 4]))`.
#[derive(Debug, Clone, Copy)]
pub struct Function<F>(pub F);

impl<F> Module for Function<F> {
    fn visit(&self, _: &mut Path, _: &mut dyn FnMut(&str, &Param)) {}
    fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&str, &mut Param)) {}
}

impl<F: Fn(&Array) -> Array> Layer for Function<F> {
    fn forward(&self, x: &Array) -> Array {
        (self.0)(x)
    }
}

/// Layers that are called one after the other (`nn.Sequential`).
///
/// ```
/// use mlx::nn::{Layer, Linear, ReLU, Sequential};
/// let mlp = Sequential::new((Linear::init(4, 8, true), ReLU {}, Linear::init(8, 2, true)));
/// assert_eq!(mlp.forward(&mlx::ones([3, 4], mlx::Dtype::Float32)).shape(), [3, 2]);
/// ```
#[derive(mlx_macros::Module)]
pub struct Sequential {
    pub layers: Vec<Box<dyn Layer>>,
}

impl Sequential {
    /// From a tuple of layers, or a vector of boxed ones.
    pub fn new(layers: impl IntoLayers) -> Self {
        Sequential { layers: layers.into_layers() }
    }

    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        self.layers.iter().fold(x.clone(), |x, layer| layer.forward(&x))
    }
}

impl Layer for Sequential {
    fn forward(&self, x: &Array) -> Array {
        Sequential::forward(self, x)
    }
}

/// What [`Sequential::new`] takes.
pub trait IntoLayers {
    fn into_layers(self) -> Vec<Box<dyn Layer>>;
}

impl IntoLayers for Vec<Box<dyn Layer>> {
    fn into_layers(self) -> Vec<Box<dyn Layer>> {
        self
    }
}

macro_rules! tuple {
    ($($($t:ident $i:tt),+;)*) => { $(
        impl<$($t: Layer + 'static),+> IntoLayers for ($($t,)+) {
            fn into_layers(self) -> Vec<Box<dyn Layer>> { vec![$(Box::new(self.$i)),+] }
        }
    )* };
}
tuple! {
    A 0;
    A 0, B 1;
    A 0, B 1, C 2;
    A 0, B 1, C 2, D 3;
    A 0, B 1, C 2, D 3, E 4;
    A 0, B 1, C 2, D 3, E 4, F 5;
    A 0, B 1, C 2, D 3, E 4, F 5, G 6;
    A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7;
    A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8;
    A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9;
}
