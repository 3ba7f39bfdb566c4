//! Neural network layers (`mlx.nn`): modules with named parameters, each layer holding its weights in whatever form
//! they came (dense, quantised, adapted).
//!
//! A model is a plain struct with `#[derive(Module)]`; its `forward` is an ordinary method.
//!
//! ```
//! use mlx::{self as mx, Array, Module, nn::{Linear, ModuleExt}};
//!
//! #[derive(Module)]
//! struct Mlp { up: Linear, down: Linear }
//!
//! impl Mlp {
//!     fn forward(&self, x: &Array) -> Array { self.down.forward(&self.up.forward(x).maximum(0)) }
//! }
//!
//! let mlp = Mlp { up: Linear::init(4, 8, true), down: Linear::init(8, 2, false) };
//! assert_eq!(mlp.forward(&mx::ones([3, 4], mx::Dtype::Float32)).shape(), [3, 2]);
//! let names: Vec<String> = mlp.parameters().into_iter().map(|(name, _)| name).collect();
//! assert_eq!(names, ["up.weight", "up.bias", "down.weight"]);
//! ```

mod activations;
mod adapter;
mod bilinear;
mod codes;
mod container;
mod conv;
mod dropout;
mod embedding;
mod fully_sharded;
mod grad;
pub mod init;
mod linear;
pub mod losses;
pub mod module;
mod module_ext;
mod norm;
mod pool;
mod position;
mod recurrent;
mod rotation;
mod sharded;
mod switch;
mod transformer;
mod upsample;
mod weight;

pub use activations::*;
pub use adapter::Adapter;
pub use bilinear::{Bilinear, QQLinear};
pub use container::{Function, IntoLayers, Layer, Sequential};
pub use conv::*;
pub use dropout::{Dropout, Dropout2d, Dropout3d};
pub use embedding::Embedding;
pub use fully_sharded::{FullyShardedModule, fully_shard};
pub use grad::{Grads, checkpoint, quantize, try_value_and_grad, value_and_grad};
pub use linear::Linear;
pub use mlx_macros::Module;
pub use module::{LayerMut, Leaf, Module, Param, Path};
pub use module_ext::ModuleExt;
pub use norm::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm};
pub use pool::*;
pub use position::{ALiBi, Rope, SinusoidalPositionalEncoding};
pub use recurrent::{GRU, LSTM, RNN};
pub use rotation::Rotation;
pub use sharded::{
    AllToShardedLinear, Segments, ShardedToAllLinear, Sharding, average_gradients, shard_linear_parts, sum_gradients,
};
pub use switch::SwitchLinear;
pub use transformer::*;
pub use upsample::{Upsample, UpsampleMode};
