//! Raw FFI over the MLX C API: `bindings` (generated from mlx-c's headers) and `shim` (what mlx-c lacks).
//! Everything here is `unsafe`; the crate `mlx` is the safe layer. No function unwinds: errors go to the
//! handler set with [`mlx_set_error_handler`] and the call returns 1.

#[allow(non_camel_case_types, clippy::missing_safety_doc)]
mod bindings;
#[cfg(target_os = "linux")]
mod bundle;
#[cfg(target_os = "linux")]
mod elf;
mod nvrtc;
mod shim;

pub use bindings::*;
#[cfg(target_os = "linux")]
pub use bundle::{Bundle, bundle};
pub use nvrtc::{cuda_multiprocessors, nvrtc_compile, nvrtc_version};
pub use shim::*;

/// C's `FILE`.
#[repr(C)]
#[derive(Debug)]
pub struct FILE {
    _opaque: [u8; 0],
}

/// How this library was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// Version of MLX, `0.32.2`.
    pub mlx_version: &'static str,
    /// Version of mlx-c, `0.7.0`.
    pub mlx_c_version: &'static str,
    /// `cpu`, `metal` or `cuda`; `none` with the feature `no-link`.
    pub backend: &'static str,
    /// Where MLX came from: `wheel` (downloaded), `python` (a wheel installed there), `MLX_DIR` or `source`.
    pub route: &'static str,
    /// `openblas`, `reference`, `accelerate`, or `own` where MLX came with its own choice.
    pub blas: &'static str,
    /// The folder that holds libmlxc, one level down.
    pub root: &'static str,
    /// The folder that holds libmlx.
    pub mlx_lib: &'static str,
    /// The folder that holds mlx-c's headers as `mlx/c/*.h`.
    pub include: &'static str,
    /// The per-user build cache.
    pub cache: &'static str,
}

/// How this library was built.
pub const BUILD: Build = Build {
    mlx_version: env!("MLX_SYS_BUILD_MLX_VERSION"),
    mlx_c_version: env!("MLX_SYS_BUILD_MLX_C_VERSION"),
    backend: env!("MLX_SYS_BUILD_BACKEND"),
    route: env!("MLX_SYS_BUILD_ROUTE"),
    blas: env!("MLX_SYS_BUILD_BLAS"),
    root: env!("MLX_SYS_BUILD_ROOT"),
    mlx_lib: env!("MLX_SYS_BUILD_MLX_LIB"),
    include: env!("MLX_SYS_BUILD_INCLUDE"),
    cache: env!("MLX_SYS_BUILD_CACHE"),
};
