//! OpenBLAS in place of the reference BLAS that MLX's Linux wheels bring: thirty times as fast. A stub of
//! jumps (`shim/blas.S`) takes the wheel's library names, which libmlx looks up by a path of its own.

use crate::{
    cache::{Cache, at, key, list, read, remove},
    env::Env,
    fetch::{pinned, run, unpack},
    messages,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The cache entry of MLX, with OpenBLAS when it can be had, else as it is; and which of the two.
/// `fill` puts MLX into a folder.
pub fn entry(
    env: &Env,
    cache: &Cache,
    name: &str,
    fill: impl Fn(&Path) -> Result<(), String>,
) -> Result<(PathBuf, &'static str), String> {
    if let (true, Some(wheel)) = (env.openblas, pinned(env, "scipy-openblas32", &env.target)?.pop()) {
        let key = key(&[wheel.sha256.as_bytes(), &read(&env.shim("blas.S"))?, include_bytes!("blas.rs")]);
        let mut mlx = Ok(());
        let made = cache.entry(&format!("{name}-openblas-{key}"), |stage, _| {
            mlx = fill(stage);
            mlx.clone()?;
            unpack(env, cache, &wheel, stage, &[])?;
            exchange(env, stage)
        });
        match made {
            Ok(place) => return Ok((place, "openblas")),
            Err(e) => {
                mlx?; // without MLX there is no second choice
                println!("cargo:warning={}", messages::slow_blas(&e));
            }
        }
    }
    Ok((cache.entry(name, |stage, _| fill(stage))?, "reference"))
}

fn exchange(env: &Env, stage: &Path) -> Result<(), String> {
    let libs = list(stage)?.into_iter().find(|d| d.extension().is_some_and(|e| e == "libs"));
    let libs = libs.ok_or("the MLX wheel brings no BLAS of its own to replace")?;
    let from = stage.join("scipy_openblas32/lib/libscipy_openblas.so");
    fs::rename(&from, libs.join("libscipy_openblas.so")).map_err(at(&from))?;
    remove(&stage.join("scipy_openblas32"))?;
    let mut replaced = 0;
    for file in list(&libs)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("libgfortran") || name.starts_with("libquadmath") {
            remove(&file)?; // only the reference LAPACK needs them
        }
        if name.starts_with("libblas-") || name.starts_with("liblapack-") {
            remove(&file)?;
            let mut c = cc::Build::new().cargo_metadata(false).get_compiler().to_command();
            c.args(["-shared", "-nostdlib", "-o"]).arg(&file).arg(env.shim("blas.S"));
            c.arg(format!("-Wl,-soname,{name}")).arg("-L").arg(&libs).arg("-lscipy_openblas");
            c.args(["-Wl,-z,defs", "-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN"]);
            run(&mut c)?;
            replaced += 1;
        }
    }
    if replaced == 2 {
        Ok(())
    } else {
        Err(format!("expected libblas and liblapack in {}, found {replaced}", libs.display()))
    }
}
