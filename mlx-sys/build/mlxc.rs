//! Compiles mlx-c, and with it our shim, into one shared library.

use crate::{
    cache::{Cache, key, make_dir, read},
    env::Env,
    fetch::{self, list, run},
    mlx::Mlx,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

pub const VERSION: &str = "0.7.0";
const SHIM: [&str; 4] = ["error.cpp", "facts.cpp", "cpu_op.cpp", "kernel.cpp"];
const SHARED: [&str; 2] = ["format.h", "caught.h"];

/// The folder whose `lib/` holds libmlxc.
pub fn build(env: &Env, cache: &Cache, mlx: &Mlx) -> Result<PathBuf, String> {
    let shared = SHARED.iter().map(|f| read(&env.shim(f))).collect::<Result<Vec<_>, _>>()?.concat();
    let lock = read(&env.vendor("mlx-c.lock"))?;
    let base = key(&[b"1", mlx.key.as_bytes(), &lock, &shared]);
    let objects = cache.entry(&format!("mlxc-{VERSION}-{base}"), |stage, _| {
        fetch::mlxc_source(env, stage)?;
        let sources = catch_everything(&stage.join("mlx/c"))?;
        let units = unite(&sources, stage)?;
        compile(env, mlx, stage, &units, &stage.join("obj"))
    })?;
    let shim = SHIM.iter().chain(&["shim.h"]).map(|f| read(&env.shim(f))).collect::<Result<Vec<_>, _>>()?.concat();
    let root = key(&[b"1", base.as_bytes(), &shim, &read(&env.manifest.join("build/mlxc.rs"))?]);
    cache.entry(&format!("root-{}-{root}", crate::mlx::VERSION), |stage, place| {
        let sources: Vec<PathBuf> = SHIM.iter().map(|f| env.shim(f)).collect();
        compile(env, mlx, &objects, &sources, &stage.join("obj"))?;
        link(env, mlx, &[list(&objects.join("obj"))?, list(&stage.join("obj"))?].concat(), stage, place)
    })
}

/// mlx-c catches `std::exception` only; MLX also throws a string literal. Rewrites the staged sources and
/// checks that every catch was reached. Returns them without error.cpp, which the shim replaces.
fn catch_everything(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut sources = Vec::new();
    let (mut blocks, mut texts) = (0, 0);
    for file in list(dir)? {
        if file.extension().is_none_or(|e| e != "cpp") || file.ends_with("error.cpp") {
            continue;
        }
        let text = String::from_utf8_lossy(&read(&file)?).replace("std::exception & e", "std::exception& e");
        blocks += text.matches("catch (std::exception& e)").count();
        texts += text.matches("mlx_error(e.what())").count();
        let text = text
            .replace("catch (std::exception& e)", "catch (...)")
            .replace("mlx_error(e.what())", "mlx_error(mlxs_caught())");
        if text.contains("e.what()") {
            return Err(format!("{}: a catch block of an unknown form", file.display()));
        }
        fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
        sources.push(file);
    }
    if blocks != texts || blocks < 600 {
        return Err(format!("mlx-c {VERSION} does not look as expected: {blocks} catch blocks, {texts} reports"));
    }
    Ok(sources)
}

/// Two sources that include all others, about equally long: parsing MLX's headers is most of the work.
fn unite(sources: &[PathBuf], dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut sized: Vec<(u64, &PathBuf)> = sources.iter().map(|f| (f.metadata().map_or(0, |m| m.len()), f)).collect();
    sized.sort_by(|a, b| b.cmp(a));
    let mut units = vec![(0, String::new()); 2];
    for (len, file) in sized {
        units.sort_by_key(|u| u.0);
        units[0].0 += len;
        units[0].1 += &format!("#include \"mlx/c/{}\"\n", file.file_name().unwrap_or_default().to_string_lossy());
    }
    let mut files = Vec::new();
    for (i, (_, text)) in units.iter().enumerate() {
        files.push(dir.join(format!("unity{i}.cpp")));
        fs::write(&files[i], text).map_err(|e| format!("{}: {e}", files[i].display()))?;
    }
    Ok(files)
}

fn compile(env: &Env, mlx: &Mlx, mlxc: &Path, sources: &[PathBuf], out: &Path) -> Result<(), String> {
    make_dir(out)?;
    let mut c = cc::Build::new();
    c.cpp(true).std("c++20").opt_level(2).debug(false).pic(true).warnings(false).cargo_metadata(false).out_dir(out);
    c.include(mlxc).include(&mlx.include).include(env.manifest.join("shim"));
    for header in SHARED {
        c.flag("-include").flag(env.shim(header));
    }
    c.files(sources).try_compile_intermediates().map(drop).map_err(|e| format!("compiling mlx-c failed: {e}"))
}

fn link(env: &Env, mlx: &Mlx, objects: &[PathBuf], stage: &Path, place: &Path) -> Result<(), String> {
    make_dir(&stage.join("lib"))?;
    let mut c = cc::Build::new().cpp(true).cargo_metadata(false).out_dir(&env.out).get_compiler().to_command();
    c.args(["-shared", "-s", "-o"])
        .arg(stage.join("lib/libmlxc.so"))
        .args(objects)
        .arg("-L")
        .arg(&mlx.lib)
        .arg("-lmlx");
    c.arg(format!("-Wl,-soname,{}", place.join("lib/libmlxc.so").display()));
    c.arg("-Wl,--enable-new-dtags").arg(format!("-Wl,-rpath,{}", mlx.lib.display())).arg("-Wl,-z,defs");
    if let Some(libs) = &mlx.libs {
        c.arg(format!("-Wl,-rpath-link,{}", libs.display()));
    }
    run(&mut c)?;
    fs::remove_dir_all(stage.join("obj")).map_err(|e| e.to_string())
}
