//! Function transforms and evaluation.

mod eval;

pub use eval::*;
