//! Function transforms and evaluation.
//!
//! Transforms take closures over trees of arrays ([`Tree`](crate::Tree)). Closures may borrow and capture; a captured
//! array is a constant. A panic inside a closure comes out of the transform as itself, so that
//! [`catch`](crate::catch) sees an op's error as everywhere.

mod autograd;
pub(crate) mod closure;
mod compile;
mod custom;
mod eval;
mod export;
mod stack;
mod state;
mod vmap;

pub use autograd::*;
pub(crate) use closure::carry;
pub use compile::*;
pub use custom::*;
pub use eval::*;
pub use export::*;
pub use state::{RandomState, State, module_arrays, module_arrays_mut};
pub use vmap::*;
