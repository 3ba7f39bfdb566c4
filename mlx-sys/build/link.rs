//! What cargo and the crate are told about the finished library.

use crate::{env::Env, mlx::Mlx};
use std::path::Path;

pub fn tell(env: &Env, mlx: &Mlx, root: &Path) {
    let lib = root.join("lib");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=mlxc");
    println!("cargo:root={}", root.display());
    // somebody who empties the cache gets it back at the next build
    println!("cargo:rerun-if-changed={}", lib.join("libmlxc.so").display());
    for (name, value) in [
        ("MLX_VERSION", crate::mlx::VERSION),
        ("MLX_C_VERSION", crate::mlxc::VERSION),
        ("BACKEND", "cpu"),
        ("ROUTE", mlx.route),
        ("BLAS", mlx.blas),
        ("ROOT", &root.to_string_lossy()),
        ("MLX_LIB", &mlx.lib.to_string_lossy()),
        ("CACHE", &env.cache.to_string_lossy()),
    ] {
        println!("cargo:rustc-env=MLX_SYS_BUILD_{name}={value}");
    }
}
