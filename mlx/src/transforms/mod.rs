//! Function transforms and evaluation.

mod autograd;
mod closure;
mod compile;
mod eval;

pub use autograd::*;
pub use compile::*;
pub use eval::*;
