//! Examples (`examples/`) and cross-crate tests (`tests/`) of MLX for Rust; the crates are `mlx-sys`, `mlx` and `mlx-lm`.
