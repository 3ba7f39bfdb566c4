//! Derives of the `mlx` crate.
