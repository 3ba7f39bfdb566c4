//! Function transforms, trees, frozen arrays.
#[path = "transforms_/closures.rs"]
mod closures;
#[path = "transforms_/frozen.rs"]
mod frozen;
