//! Brings in what the build does not carry: wheels through pip, mlx-c's source through cargo. Both check
//! every byte against the pins in `vendor/`.

use crate::{
    cache::{make_dir, read},
    env::Env,
};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One pinned wheel of `vendor/wheels.txt`.
#[derive(Clone, Debug, PartialEq)]
pub struct Wheel {
    pub package: String,
    pub version: String,
    pub platform: String,
    pub sha256: String,
}

/// The pins of one platform (`linux-x86_64`).
pub fn pins(text: &str, platform: &str) -> Vec<Wheel> {
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| {
            let mut words = l.split_whitespace().map(String::from);
            Some(Wheel {
                package: words.next()?,
                version: words.next()?,
                platform: words.next()?,
                sha256: words.next()?,
            })
        })
        .filter(|w| w.platform == platform)
        .collect()
}

/// Runs a command; the error holds the command, its status and all it said.
pub fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|e| format!("cannot start {name}: {e}"))?;
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    if out.status.success() {
        return Ok(text(&out.stdout));
    }
    Err(format!("{command:?}\nended with {}\n{}{}", out.status, text(&out.stdout), text(&out.stderr)))
}

/// pip's platform tags, newest first, for wheels of `platform`.
fn tags(platform: &str) -> Vec<String> {
    let arch = platform.rsplit_once('-').map_or(platform, |p| p.1);
    ["2_35", "2_28", "2_27"].iter().map(|v| format!("manylinux_{v}_{arch}")).collect()
}

/// Unpacks the wheels into `stage`: from those kept in the cache, else through pip.
pub fn wheels(env: &Env, cache: &Path, wheels: &[Wheel], stage: &Path) -> Result<(), String> {
    let kept = cache.join("wheels");
    let new = stage.join("wheels");
    make_dir(&kept)?;
    make_dir(&new)?;
    let requirements = stage.join("requirements.txt");
    let lines: String =
        wheels.iter().map(|w| format!("{}=={} --hash=sha256:{}\n", w.package, w.version, w.sha256)).collect();
    fs::write(&requirements, lines).map_err(|e| format!("{}: {e}", requirements.display()))?;
    let pip = |online: bool| {
        let mut c = Command::new(&env.python);
        c.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        c.args(["--only-binary=:all:", "--require-hashes", "--retries", "2"]);
        for tag in tags(&wheels[0].platform) {
            c.args(["--platform", &tag]);
        }
        c.arg("--find-links").arg(&kept).arg("--dest").arg(&new).arg("--requirement").arg(&requirements);
        if !online {
            c.arg("--no-index");
        }
        run(&mut c).map(drop)
    };
    if let Err(e) = pip(false) {
        if env.offline {
            return Err(format!("offline, and the wheels are not in {}:\n{e}", kept.display()));
        }
        pip(true)?;
    }
    for file in list(&new)?.iter().filter(|f| f.extension() == Some(OsStr::new("whl"))) {
        run(Command::new(&env.python).args(["-m", "zipfile", "-e"]).arg(file).arg(stage))?;
        if let Some(name) = file.file_name().filter(|n| !kept.join(n).exists()) {
            let part = kept.join(".part");
            fs::copy(file, &part)
                .and_then(|_| fs::rename(&part, kept.join(name)))
                .map_err(|e| format!("{}: {e}", kept.display()))?;
        }
    }
    let _ = fs::remove_dir_all(&new);
    let _ = fs::remove_file(&requirements);
    Ok(())
}

/// Puts mlx-c's `mlx/c` sources under `to`.
pub fn mlxc_source(env: &Env, to: &Path) -> Result<(), String> {
    let dir = to.join("fetch");
    make_dir(&dir)?;
    let write = |name: &str, text: &[u8]| {
        let path = dir.join(name);
        path.parent().map_or(Ok(()), make_dir)?;
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
    };
    write("Cargo.toml", &read(&env.vendor("mlx-c.toml"))?)?;
    write("Cargo.lock", &read(&env.vendor("mlx-c.lock"))?)?;
    write("lib.rs", b"")?;
    for (name, version) in [("bindgen", "0.72.1"), ("cc", "1.2.0"), ("cmake", "0.1.54")] {
        write(&format!("stub/{name}/src/lib.rs"), b"")?;
        write(
            &format!("stub/{name}/Cargo.toml"),
            format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2021\"\n").as_bytes(),
        )?;
    }
    let mut c = Command::new(&env.cargo);
    c.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(dir.join("Cargo.toml"));
    if env.offline {
        c.arg("--offline");
    }
    let told = run(&mut c)?;
    let manifest = told
        .split("\"manifest_path\":\"")
        .filter_map(|p| p.split('"').next())
        .find(|p| Path::new(p).parent().is_some_and(|d| d.ends_with("mlx-sys-0.7.0")))
        .ok_or("cargo metadata names no mlx-sys 0.7.0")?;
    let source = Path::new(manifest).with_file_name("src/mlx-c");
    copy(&source.join("mlx"), &to.join("mlx"))?;
    copy(&source.join("LICENSE"), &to.join("LICENSE"))?;
    let _ = fs::remove_dir_all(&dir);
    Ok(())
}

/// The entries of a folder, sorted.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let say = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut res =
        fs::read_dir(dir).map_err(say)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(say)?;
    res.sort();
    Ok(res)
}

/// Copies a file or a folder.
pub fn copy(from: &Path, to: &Path) -> Result<(), String> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop).map_err(|e| format!("{}: {e}", from.display()));
    }
    make_dir(to)?;
    for path in list(from)? {
        copy(&path, &to.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}
