//! Examples (`examples/`) and cross-crate tests (`tests/`) of MLX for Rust; the crates are `mlx-sys`, `mlx` and `mlx-lm`.

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The blocks of the porting guide run.
#[cfg(doctest)]
#[doc = include_str!("../docs/porting-from-python.md")]
struct Porting;
