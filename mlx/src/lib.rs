//! Apple's MLX array framework in Rust.
