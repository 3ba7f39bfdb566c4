//! MLX compiled from source (feature `source`): for systems without a wheel, or for changes to MLX.

use crate::{
    cache::{Cache, key, list, read, remove},
    env::Env,
    host, messages,
    mlx::VERSION,
    mlxc::cmake,
};
use std::path::{Path, PathBuf};

/// The prefix that MLX was installed to.
pub fn build(env: &Env, cache: &Cache) -> Result<PathBuf, String> {
    let tree = match &env.mlx_source {
        Some(dir) if dir.join("CMakeLists.txt").exists() => Some(std::path::absolute(dir).map_err(|e| e.to_string())?),
        Some(dir) => return Err(messages::bad_prefix("MLX_SOURCE_DIR", dir, "CMakeLists.txt")),
        None if env.offline => {
            return Err(messages::failure(
                "offline, and the feature `source` would fetch MLX's source",
                "",
                &[format!("set MLX_SOURCE_DIR to the source tree of MLX {VERSION}"), "build once online".into()],
            ));
        }
        None => None,
    };
    let mut facts = vec![VERSION.to_string(), env.target.clone(), env.cmake_args.join(" ")];
    if let Some(dir) = &tree {
        println!("cargo:rerun-if-changed={}", dir.join("mlx").display());
        stamp(dir, &dir.join("mlx"), &mut facts)?;
        stamp(dir, &dir.join("CMakeLists.txt"), &mut facts)?;
    }
    let key = key(&[facts.join("\n").as_bytes(), &read(&env.vendor("CMakeLists.txt"))?]);
    cache.entry(&format!("mlx-{VERSION}-source-{key}"), |stage, _| {
        host::compiler()?;
        let tools = host::tools(env, cache)?;
        let mut defines = vec![("MLXC_MLX_VERSION", VERSION.to_string())];
        if let Some(dir) = &tree {
            defines.push(("MLXC_MLX_SOURCE", dir.display().to_string()));
        }
        cmake(env, &tools, "mlx", stage, &defines)?;
        remove(&stage.join("build"))
    })
}

/// Path, size and time of every file: what a changed tree is known by.
fn stamp(base: &Path, path: &Path, facts: &mut Vec<String>) -> Result<(), String> {
    if path.is_dir() {
        return list(path)?.iter().try_for_each(|p| stamp(base, p, facts));
    }
    let meta = path.metadata().map_err(|e| format!("{}: {e}", path.display()))?;
    let name = path.strip_prefix(base).unwrap_or(path).display();
    facts.push(format!("{name} {} {:?}", meta.len(), meta.modified().ok()));
    Ok(())
}
