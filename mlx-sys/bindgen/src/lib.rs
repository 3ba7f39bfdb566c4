//! Generates `mlx-sys/src/bindings.rs` from mlx-c's headers, with the libclang of a pinned wheel.
//!
//! The headers are those of the build (`mlx_sys::BUILD.include`). What differs between x86-64 and aarch64
//! (functions on C's half-precision types) is left out, so one file serves both; a test compares the two.

#[expect(dead_code, reason = "shared with mlx-sys's build script, which uses all of it")]
#[path = "../../build/cache.rs"]
mod cache;
#[expect(dead_code, reason = "shared with mlx-sys's build script, which uses all of it")]
#[path = "../../build/env.rs"]
mod env;
#[expect(dead_code, reason = "shared with mlx-sys's build script, which uses all of it")]
#[path = "../../build/fetch.rs"]
mod fetch;
#[expect(dead_code, reason = "shared with mlx-sys's build script, which uses all of it")]
#[path = "../../build/messages.rs"]
mod messages;

use std::{
    env::consts,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The committed file.
pub fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/bindings.rs")
}

/// The folder with libclang: the pinned wheel, unpacked into the build cache. Errors as the build's own.
pub fn libclang() -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let env = env::Env::read(|name| match name {
        "CARGO_MANIFEST_DIR" => Some(manifest.clone().into()),
        "MLX_SYS_CACHE" => Some(mlx_sys::BUILD.cache.into()),
        "CARGO_CFG_TARGET_OS" => Some(OsString::from(consts::OS)),
        "CARGO_CFG_TARGET_ARCH" => Some(OsString::from(consts::ARCH)),
        _ => std::env::var_os(name),
    })?;
    let cache = cache::Cache::new(&env.cache);
    let wheel = fetch::pinned(&env, "libclang", &env.target)?.pop();
    let wheel = wheel.ok_or_else(|| format!("no libclang is pinned for {}", env.target))?;
    let place = cache.entry(&format!("libclang-{}-{}", wheel.version, &wheel.sha256[..10]), |stage, _| {
        fetch::unpack(&env, &cache, &wheel, stage, &[])
    })?;
    Ok(place.join(format!("libclang-{}.data/platlib/clang/native", wheel.version)))
}

/// The compiler's own headers (`stddef.h` and the like), which the libclang wheel lacks.
fn builtin_headers() -> Result<String, String> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    fetch::run(Command::new(compiler).arg("-print-file-name=include")).map(|t| t.trim().to_string())
}

/// The bindings for a target triple, unformatted. `libclang` is the folder that holds it.
pub fn generate(libclang: &Path, target: &str) -> Result<String, String> {
    let include = mlx_sys::BUILD.include;
    // SAFETY: the program has one thread, and the test one besides the harness's; bindgen reads this alone
    unsafe { std::env::set_var("LIBCLANG_PATH", libclang) };
    let mut builder = bindgen::Builder::default()
        .header(format!("{include}/mlx/c/mlx.h"))
        .clang_arg(format!("-I{include}"))
        .clang_arg(format!("--target={target}"))
        .clang_args(["-isystem", &builtin_headers()?])
        .rust_target(bindgen::RustTarget::stable(85, 0).map_err(|e| e.to_string())?)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .use_core()
        .allowlist_function("_?mlx_.*")
        .allowlist_type("mlx_.*")
        .allowlist_var("MLX_.*")
        .blocklist_item("mlx_array_(item|data)_b?float16")
        .blocklist_var("mlx_array_empty")
        .blocklist_type("b?float16_t|__int64_t|FILE|_IO_.*|__off.*|__s?FILE.*")
        .raw_line("use crate::FILE;")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .merge_extern_blocks(true)
        .layout_tests(false)
        .generate_comments(false)
        .formatter(bindgen::Formatter::None);
    if target.starts_with("aarch64") && consts::ARCH != "aarch64" {
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
        builder = builder.clang_arg(format!("-isystem{}", stand_ins.display()));
        builder = builder.clang_args(["-isystem", &format!("/usr/include/{}-linux-gnu", consts::ARCH)]);
    }
    builder.generate().map(|b| b.to_string()).map_err(|e| e.to_string())
}

/// Runs rustfmt, with the workspace's settings, on a file.
pub fn format(file: &Path) -> Result<(), String> {
    fetch::run(Command::new("rustfmt").args(["--edition", "2024"]).arg(file)).map(drop)
}
