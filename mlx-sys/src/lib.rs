//! Raw FFI over the MLX C API.
