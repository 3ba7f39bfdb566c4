//! What the machine has: C library, macOS version, compiler, CMake and Ninja.

use crate::{
    cache::{Cache, at, list},
    env::Env,
    fetch::{pinned, run, unpack},
    messages,
};
use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest glibc with every symbol that the Linux wheels import.
pub const GLIBC: (u32, u32) = (2, 35);

/// The first `major.minor` of a text.
pub fn version(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| {
        let mut parts = word.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

/// Errors if a ready-made MLX would not load here.
pub fn check(env: &Env, mlx: &str) -> Result<(), String> {
    if env.abi == "musl" {
        return Err(messages::musl(mlx));
    }
    if env.host != env.target || !env.target.starts_with("linux") {
        return Ok(());
    }
    // no getconf: say nothing, the loader will
    let found = run(Command::new("getconf").arg("GNU_LIBC_VERSION")).ok().and_then(|t| version(&t));
    match found {
        Some(v) if v < GLIBC => Err(messages::old_glibc(v, GLIBC, mlx)),
        _ => Ok(()),
    }
}

/// `14.5` and the like.
pub fn macos_version() -> Result<String, String> {
    run(Command::new("sw_vers").arg("-productVersion")).map(|t| t.trim().to_string())
}

/// A C++ compiler that starts, as the `cc` crate chooses it.
pub fn compiler() -> Result<(), String> {
    let tool = cc::Build::new().cpp(true).cargo_metadata(false).try_get_compiler();
    let mut command = tool.map_err(|e| messages::no_compiler(&e.to_string()))?.to_command();
    run(command.arg("--version")).map(drop).map_err(|e| messages::no_compiler(&e))
}

/// The first executable of that name in PATH.
pub fn which(name: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH")?;
    env::split_paths(&paths)
        .map(|d| d.join(name))
        .find(|f| f.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// CMake and what it drives.
#[derive(Debug)]
pub struct Tools {
    pub cmake: PathBuf,
    pub generator: &'static str,
    pub make: PathBuf,
}

/// The machine's cmake (3.20 or newer) and ninja or make, else those of the pinned wheels.
pub fn tools(env: &Env, cache: &Cache) -> Result<Tools, String> {
    let set = env::var_os("CMAKE").filter(|v| !v.is_empty()).map(PathBuf::from);
    let new_enough = |c: &PathBuf| {
        run(Command::new(c).arg("--version")).ok().and_then(|t| version(&t)).is_some_and(|v| v >= (3, 20))
    };
    let cmake = match set.or_else(|| which("cmake")).filter(new_enough) {
        Some(found) => found,
        None => wheel_tool(env, cache, "cmake", "cmake/data/bin/cmake")?,
    };
    if let Some(make) = which("ninja") {
        return Ok(Tools { cmake, generator: "Ninja", make });
    }
    match which("make") {
        Some(make) => Ok(Tools { cmake, generator: "Unix Makefiles", make }),
        None => Ok(Tools { cmake, generator: "Ninja", make: wheel_tool(env, cache, "ninja", "ninja")? }),
    }
}

/// An executable out of a pinned wheel of build tools.
fn wheel_tool(env: &Env, cache: &Cache, package: &str, path: &str) -> Result<PathBuf, String> {
    let wheel = pinned(env, package, &env.host)?.pop().ok_or_else(|| {
        messages::failure(
            &format!("no {package} on this machine, and none is pinned for {}", env.host),
            "",
            &messages::tool_remedies(),
        )
    })?;
    let place = cache.entry(&format!("{package}-{}-{}", wheel.version, &wheel.sha256[..10]), |stage, _| {
        unpack(env, cache, &wheel, stage, &messages::tool_remedies())?;
        executable(&stage.join(format!("{package}-{}.data/scripts", wheel.version)))?;
        executable(&stage.join("cmake/data/bin"))
    })?;
    let scripts = place.join(format!("{package}-{}.data/scripts", wheel.version)).join(path);
    Ok(if scripts.exists() { scripts } else { place.join(path) })
}

/// Gives the files of a folder, if there is one, the x bit that unpacking loses.
fn executable(dir: &Path) -> Result<(), String> {
    if !dir.exists() {
        return Ok(());
    }
    for file in list(dir)? {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).map_err(at(&file))?;
    }
    Ok(())
}
