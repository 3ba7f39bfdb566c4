//! Where MLX itself (headers and library) comes from.

use crate::{
    cache::{Cache, key, read},
    env::Env,
    fetch::{self, run},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// An MLX to build against.
pub struct Mlx {
    pub include: PathBuf,
    pub lib: PathBuf,
    /// Libraries that libmlx itself needs.
    pub libs: Option<PathBuf>,
    pub route: &'static str,
    pub blas: &'static str,
    pub key: String,
}

pub const VERSION: &str = "0.32.2";

pub fn find(env: &Env, cache: &Cache) -> Result<Mlx, String> {
    let platform = format!("{}-{}", env.os, env.arch);
    let pins = read(&env.vendor("wheels.txt"))?;
    let wheels = fetch::pins(&String::from_utf8_lossy(&pins), &platform);
    if wheels.is_empty() {
        return Err(format!("no MLX wheel is pinned for {platform}; set MLX_DIR to an installed MLX {VERSION}"));
    }
    let stub = read(&env.shim("blas.S"))?;
    let blas = if env.openblas { "openblas" } else { "reference" };
    let hashes: String = wheels.iter().map(|w| w.sha256.as_str()).collect();
    let key = key(&[b"1", hashes.as_bytes(), &stub, blas.as_bytes()]);
    let place = cache.entry(&format!("mlx-{VERSION}-cpu-{key}"), |stage, _| {
        fetch::wheels(env, &cache.dir, &wheels, stage)?;
        if env.openblas { openblas(env, stage) } else { Ok(()) }
    })?;
    Ok(Mlx {
        include: place.join("mlx/include"),
        lib: place.join("mlx/lib"),
        libs: Some(place.join("mlx_cpu.libs")),
        route: "wheel",
        blas,
        key,
    })
}

/// Puts OpenBLAS where the wheel's reference BLAS was: a stub of jumps bears the old file names.
fn openblas(env: &Env, stage: &Path) -> Result<(), String> {
    let libs = stage.join("mlx_cpu.libs");
    let from = stage.join("scipy_openblas32/lib/libscipy_openblas.so");
    fs::rename(&from, libs.join("libscipy_openblas.so")).map_err(|e| format!("{}: {e}", from.display()))?;
    let _ = fs::remove_dir_all(stage.join("scipy_openblas32"));
    for file in fetch::list(&libs)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("libgfortran") || name.starts_with("libquadmath") {
            fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        if name.starts_with("libblas-") || name.starts_with("liblapack-") {
            fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let mut c: Command = cc::Build::new().cargo_metadata(false).get_compiler().to_command();
            c.args(["-shared", "-nostdlib", "-o"]).arg(&file).arg(env.shim("blas.S"));
            c.arg(format!("-Wl,-soname,{name}")).arg("-L").arg(&libs).arg("-lscipy_openblas");
            c.args(["-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN"]);
            run(&mut c)?;
        }
    }
    Ok(())
}
