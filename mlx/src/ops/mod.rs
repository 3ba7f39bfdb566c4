//! Ops, one file per group; each Python name is one function here and, where Python has it, one method.
//!
//! All of them build graph nodes, return at once and panic with the op's name and operand shapes when MLX refuses
//! the operands ([`catch`](crate::catch) turns that into an error). Nothing is computed before an `eval`.

mod binary;
mod convert;
mod creation;
mod matmul;
mod quantized;
mod reduce;
mod select;
mod shaping;
mod sort;
mod unary;

pub use binary::*;
pub use convert::*;
pub(crate) use creation::check_shape;
pub use creation::*;
pub use matmul::*;
pub use quantized::*;
pub use reduce::*;
pub(crate) use select::safe_indices;
pub use select::*;
pub use shaping::*;
pub use sort::*;
pub use unary::*;
