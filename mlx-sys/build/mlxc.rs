//! Compiles mlx-c, and then our shim with it, into one shared library.

use crate::{
    cache::{Cache, copy, key, list, read, remove, write},
    env::Env,
    fetch,
    host::{self, Tools},
    messages,
    mlx::Mlx,
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

pub const VERSION: &str = "0.7.0";

/// What the finished library lies in.
pub struct Library {
    /// The folder that holds libmlxc, one level down.
    pub root: PathBuf,
    /// The folder that holds mlx-c's headers as `mlx/c/*.h`.
    pub include: PathBuf,
}

/// Makes libmlxc, or finds it made. mlx-c's objects are kept apart: a change of the shim does not compile
/// them again.
pub fn build(env: &Env, cache: &Cache, mlx: &Mlx) -> Result<Library, String> {
    let recipe = [
        read(&env.vendor("mlx-c.lock"))?,
        read(&env.vendor("CMakeLists.txt"))?,
        read(&env.shim("format.h"))?,
        read(&env.shim("caught.h"))?,
        include_bytes!("mlxc.rs").to_vec(),
    ];
    let source = env.mlxc_source.as_ref().map(|d| d.display().to_string()).unwrap_or_default();
    let base_key = key(&[mlx.headers.as_bytes(), env.target.as_bytes(), source.as_bytes(), &recipe.concat()]);
    let mut shim = Vec::new();
    for file in list(&env.shim(""))? {
        shim.extend(read(&file)?);
    }
    let root_key = key(&[base_key.as_bytes(), &shim, mlx.lib.as_os_str().as_encoded_bytes()]);

    let base = cache.entry(&format!("mlxc-{VERSION}-{base_key}"), |stage, _| {
        host::compiler()?;
        let tools = host::tools(env, cache)?;
        fetch::mlxc_source(env, stage)?;
        catch_everything(&stage.join("mlx/c"))?;
        cmake(env, &tools, "base", stage, &defines(env, mlx, stage))?;
        remove(&stage.join("build"))
    })?;
    let root = cache.entry(&format!("root-{}-{}-{root_key}", crate::mlx::VERSION, env.backend()), |stage, place| {
        host::compiler()?;
        let tools = host::tools(env, cache)?;
        let mut defines = defines(env, mlx, &base);
        defines.push(("MLXC_BASE", base.join("lib/libmlxc_base.a").display().to_string()));
        defines.push(("MLXC_PLACE", place.display().to_string()));
        cmake(env, &tools, "lib", stage, &defines)?;
        if base.join("LICENSE").exists() {
            copy(&base.join("LICENSE"), &stage.join("LICENSE"))?; // travels with a bundle
        }
        remove(&stage.join("build"))
    })?;
    Ok(Library { root, include: base })
}

fn defines(env: &Env, mlx: &Mlx, source: &Path) -> Vec<(&'static str, String)> {
    let text = |p: &Path| p.display().to_string();
    vec![
        ("MLXC_SOURCE", text(source)),
        ("MLXC_SHIM", text(&env.manifest.join("shim"))),
        ("MLXC_MLX_INCLUDE", text(&mlx.include)),
        ("MLXC_MLX_LIB", text(&mlx.lib)),
        ("MLXC_MLX_LIBRARY", text(&mlx.lib.join(env.library("mlx")))),
    ]
}

/// Runs one step of vendor/CMakeLists.txt and installs into `out`.
pub fn cmake(env: &Env, tools: &Tools, step: &str, out: &Path, defines: &[(&str, String)]) -> Result<(), String> {
    let mut c = cmake::Config::new(env.vendor(""));
    c.out_dir(out)
        .profile("Release")
        .generator(tools.generator)
        .define("MLXC_STEP", step)
        .define("CMAKE_MAKE_PROGRAM", &tools.make);
    for (name, value) in defines {
        c.define(name, value);
    }
    for arg in env.cmake_args.iter().filter(|_| step == "mlx") {
        c.configure_arg(arg);
    }
    // SAFETY: the build script has one thread; the crate takes the program's path from the environment alone
    unsafe { std::env::set_var("CMAKE", &tools.cmake) };
    let what = match step {
        "mlx" => "MLX",
        "base" => "mlx-c",
        _ => "the shim",
    };
    // the crate panics when CMake or the compiler fails; their output went to stdout, which cargo then shows
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(|| c.build()));
    let _ = std::panic::take_hook();
    result.map(drop).map_err(|_| messages::not_compiled(what, ""))
}

/// mlx-c catches `std::exception` only, but MLX also throws a string literal, which would end the process.
/// Rewrites the staged sources to catch everything, and checks that every block was reached.
pub fn catch_everything(dir: &Path) -> Result<(), String> {
    let (mut blocks, mut texts) = (0, 0);
    for file in list(dir)?.iter().filter(|f| f.extension().is_some_and(|e| e == "cpp")) {
        let text = String::from_utf8_lossy(&read(file)?).replace("std::exception & e", "std::exception& e");
        blocks += text.matches("catch (std::exception& e)").count();
        texts += text.matches("mlx_error(e.what())").count();
        let text = text.replace("catch (std::exception& e)", "catch (...)");
        let text = text.replace("mlx_error(e.what())", "mlx_error(mlxs_caught())");
        if text.contains("e.what()") {
            return Err(format!("{}: a catch block of an unknown form", file.display()));
        }
        write(file, text.as_bytes())?;
    }
    if blocks != texts || blocks < 600 {
        return Err(format!("mlx-c {VERSION} does not look as expected: {blocks} catch blocks, {texts} reports"));
    }
    // the shim has its own; nothing may compile this one by mistake
    fs::remove_file(dir.join("error.cpp")).map_err(|e| format!("error.cpp: {e}"))
}
