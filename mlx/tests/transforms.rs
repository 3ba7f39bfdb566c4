//! Function transforms, trees, frozen arrays.
#[path = "transforms_/closures.rs"]
mod closures;
#[path = "transforms_/compile.rs"]
mod compile;
#[path = "transforms_/custom.rs"]
mod custom;
#[path = "transforms_/differences.rs"]
mod differences;
#[path = "transforms_/edges.rs"]
mod edges;
#[path = "transforms_/export.rs"]
mod export;
#[path = "transforms_/frozen.rs"]
mod frozen;
