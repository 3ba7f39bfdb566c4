//! Where MLX itself (headers and library) comes from; the first of these that applies: `MLX_DIR`, the
//! feature `source`, a wheel in the Python environment, the cache, a download.

use crate::{
    blas,
    cache::{Cache, at, copy, key, read},
    env::Env,
    fetch::{self, Wheel, pinned, run},
    host, messages, source,
};
use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

pub const VERSION: &str = "0.32.2";

/// An MLX to build against.
pub struct Mlx {
    pub include: PathBuf,
    pub lib: PathBuf,
    /// `MLX_DIR`, `source`, `python` or `wheel`.
    pub route: &'static str,
    /// `openblas`, `reference`, `accelerate`, or `own` where MLX came with its own choice.
    pub blas: &'static str,
    /// Stands for the headers; the same for every wheel of one version, whose headers are the same bytes.
    pub headers: String,
}

/// Finds MLX, fetching or compiling it if need be.
pub fn find(env: &Env, cache: &Cache) -> Result<Mlx, String> {
    if let Some(dir) = &env.mlx_dir {
        let dir = dir.canonicalize().map_err(|_| messages::bad_prefix("MLX_DIR", dir, "such folder"))?;
        return prefix(env, "MLX_DIR", &dir);
    }
    if env.source {
        return prefix(env, "source", &source::build(env, cache)?);
    }
    host::check(env, VERSION)?;
    let wheel = wheel(env)?;
    let installed = installed(env);
    let (route, hash) = match &installed {
        Some(found) => ("python", found.hash.as_str()),
        None => ("wheel", wheel.sha256.as_str()),
    };
    let nvidia = if env.backend() == "cuda" { nvidia(env) } else { None };
    let unpack = |stage: &Path| {
        match &installed {
            Some(found) => found.copy(stage)?,
            None => fetch::unpack(env, cache, &wheel, stage, &messages::mlx_remedies(VERSION))?,
        }
        // libmlx looks for NVIDIA's libraries, and its run-time compiler for their headers, at ../../nvidia
        nvidia.as_ref().map_or(Ok(()), |dir| symlink(dir, stage.join("nvidia")).map_err(at(dir)))
    };
    let name = entry(env, hash, nvidia.as_deref());
    let (place, blas) = if env.macos() {
        (cache.entry(&name, |stage, _| unpack(stage))?, "accelerate")
    } else {
        blas::entry(env, cache, &name, unpack)?
    };
    if env.backend() == "cuda" && nvidia.is_none() {
        println!("cargo:warning={}", messages::no_nvidia(&env.python));
    }
    let include = place.join("mlx/include");
    Ok(Mlx { headers: VERSION.into(), lib: place.join("mlx/lib"), include, route, blas })
}

fn entry(env: &Env, hash: &str, nvidia: Option<&Path>) -> String {
    let nvidia = nvidia.map_or(&[][..], |d| d.as_os_str().as_encoded_bytes());
    format!("mlx-{VERSION}-{}-{}", env.backend(), key(&[hash.as_bytes(), nvidia]))
}

/// The folder that the nvidia-* packages of the Python environment fill.
fn nvidia(env: &Env) -> Option<PathBuf> {
    let told = run(Command::new(&env.python).args(["-c", "import nvidia; print(*nvidia.__path__, sep='\\n')"])).ok()?;
    told.lines().map(PathBuf::from).find(|d| d.join("cudnn/lib").exists())
}

/// The pinned wheel for the target, on macOS the newest that this system can use.
fn wheel(env: &Env) -> Result<Wheel, String> {
    let mut found = pinned(env, env.package(), &env.target)?;
    if env.macos() && env.host == env.target {
        let system = host::macos_version()?;
        return newest(found, &system).ok_or_else(|| messages::old_macos(&system, VERSION));
    }
    found.pop().ok_or_else(|| messages::no_wheel(&env.target, env.package(), VERSION))
}

/// Of wheels for several versions of macOS, the newest that runs on `system` (`14.5`).
pub fn newest(wheels: Vec<Wheel>, system: &str) -> Option<Wheel> {
    let major = |text: &str| host::version(text).map_or(0, |v| v.0);
    let needs = |w: &Wheel| major(&w.tag.replace("macosx_", "").replace('_', "."));
    wheels.into_iter().filter(|w| needs(w) <= major(system)).max_by_key(needs)
}

/// An MLX wheel that is installed in the Python environment.
struct Installed {
    site: PathBuf,
    package: &'static str,
    hash: String,
}

impl Installed {
    fn copy(&self, stage: &Path) -> Result<(), String> {
        copy(&self.site.join("mlx/include"), &stage.join("mlx/include"))?;
        copy(&self.site.join("mlx/lib"), &stage.join("mlx/lib"))?;
        let libs = format!("{}.libs", self.package.replace('-', "_"));
        if self.site.join(&libs).exists() { copy(&self.site.join(&libs), &stage.join(&libs)) } else { Ok(()) }
    }
}

const PROBE: &str = "
import importlib.metadata, sys
d = importlib.metadata.distribution(sys.argv[1])
f = [f for f in d.files or [] if str(f) == sys.argv[2]][0]
print(d.version, f.hash.value, d.locate_file(''), sep='\\n')
";

fn installed(env: &Env) -> Option<Installed> {
    let library = format!("mlx/lib/{}", env.library("mlx"));
    // any failure means that it is not there: the next route follows
    let told = run(Command::new(&env.python).args(["-c", PROBE, env.package(), &library])).ok()?;
    let mut lines = told.lines();
    let version = lines.next()?;
    let hash = lines.next()?.to_string();
    let site = PathBuf::from(lines.next()?).canonicalize().ok()?;
    let found = version == VERSION && env.host == env.target && site.join(&library).exists();
    found.then_some(Installed { site, package: env.package(), hash })
}

/// An MLX laid out as `include/` and `lib/`.
fn prefix(env: &Env, route: &'static str, dir: &Path) -> Result<Mlx, String> {
    let header = dir.join("include/mlx/version.h");
    let library = Path::new("lib").join(env.library("mlx"));
    for file in ["include/mlx/version.h".as_ref(), library.as_path()] {
        if !dir.join(file).exists() {
            return Err(messages::bad_prefix(route, dir, &file.display().to_string()));
        }
    }
    let found = header_version(&String::from_utf8_lossy(&read(&header)?));
    if found != VERSION {
        return Err(messages::other_version(route, dir, &found, VERSION));
    }
    let changed = dir.join(&library).metadata().and_then(|m| m.modified()).map_err(at(dir))?;
    Ok(Mlx {
        include: dir.join("include"),
        lib: dir.join("lib"),
        route,
        blas: if env.macos() { "accelerate" } else { "own" },
        headers: key(&[dir.as_os_str().as_encoded_bytes(), format!("{changed:?}").as_bytes()]),
    })
}

/// `0.32.2` out of version.h's three macros.
pub fn header_version(text: &str) -> String {
    let number = |name: &str| {
        let line = text.lines().find(|l| l.starts_with("#define") && l.contains(name));
        line.and_then(|l| l.split_whitespace().last()).unwrap_or("?").to_string()
    };
    ["MLX_VERSION_MAJOR", "MLX_VERSION_MINOR", "MLX_VERSION_PATCH"].map(number).join(".")
}
