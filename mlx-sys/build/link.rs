//! What cargo and the crate are told about the finished library.

use crate::{env::Env, mlx, mlx::Mlx, mlxc, mlxc::Library};
use std::path::Path;

/// The folder of libmlxc, as vendor/CMakeLists.txt names it.
const FOLDER: &str = "build-again-if-missing";

/// Links the library, and tells `mlx_sys::BUILD` about it.
pub fn tell(env: &Env, mlx: &Mlx, library: &Library) {
    let lib = library.root.join(FOLDER);
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=mlxc");
    println!("cargo:root={}", library.root.display());
    println!("cargo:include={}", library.include.display());
    // somebody who empties the cache gets it back at the next build
    println!("cargo:rerun-if-changed={}", lib.join(env.library("mlxc")).display());
    println!("cargo:rerun-if-changed={}", mlx.lib.join(env.library("mlx")).display());
    facts(env.backend(), mlx.route, mlx.blas, [&library.root, &mlx.lib, &library.include, &env.cache]);
}

/// For documentation and checks: no library, nothing to link.
pub fn tell_nothing() {
    facts("none", "none", "none", [Path::new(""); 4]);
}

fn facts(backend: &str, route: &str, blas: &str, [root, mlx_lib, include, cache]: [&Path; 4]) {
    let text = |p: &Path| p.to_string_lossy().into_owned();
    for (name, value) in [
        ("MLX_VERSION", mlx::VERSION.to_string()),
        ("MLX_C_VERSION", mlxc::VERSION.to_string()),
        ("BACKEND", backend.into()),
        ("ROUTE", route.into()),
        ("BLAS", blas.into()),
        ("ROOT", text(root)),
        ("MLX_LIB", text(mlx_lib)),
        ("INCLUDE", text(include)),
        ("CACHE", text(cache)),
    ] {
        println!("cargo:rustc-env=MLX_SYS_BUILD_{name}={value}");
    }
}
