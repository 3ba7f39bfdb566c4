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

mod adapter;
mod embedding;
mod functions;
mod linear;
pub mod module;
mod module_ext;
mod norm;
mod position;
mod switch;
mod weight;

pub use adapter::Adapter;
pub use embedding::Embedding;
pub use linear::Linear;
pub use mlx_macros::Module;
pub use module::{LayerMut, Leaf, Module, Param, Path};
pub use module_ext::ModuleExt;
pub use norm::{LayerNorm, RmsNorm};
pub use position::Rope;
pub use switch::SwitchLinear;
