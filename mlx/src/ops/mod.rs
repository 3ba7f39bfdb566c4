//! Ops, one file per group; each Python name is one function here and, where Python has it, one method.
//!
//! All of them build graph nodes, return at once and panic with the op's name and operand shapes when MLX refuses
//! the operands ([`catch`](crate::catch) turns that into an error). Nothing is computed before an `eval`.

mod aliases;
mod binary;
mod conv;
mod convert;
mod creation;
mod diagonals;
mod einsum_path;
mod matmul;
mod products;
mod quantized;
mod reduce;
mod scatter;
mod select;
mod shaping;
mod sort;
mod unary;

pub use aliases::*;
pub use binary::*;
pub use conv::*;
pub use convert::*;
pub(crate) use creation::check_shape;
pub use creation::*;
pub use diagonals::*;
pub use einsum_path::*;
pub use matmul::*;
pub use products::*;
pub use quantized::*;
pub(crate) use reduce::resolve;
pub use reduce::*;
pub use scatter::*;
pub(crate) use select::safe_indices;
pub use select::*;
pub use shaping::*;
pub use sort::*;
pub use unary::*;
