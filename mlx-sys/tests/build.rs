//! The build script's parts, each tried for what it says and does when something is missing.
#![expect(dead_code, reason = "these are the build script's modules; what no test calls is used there")]

#[path = "../build/blas.rs"]
mod blas;
#[path = "../build/cache.rs"]
mod cache;
#[path = "../build/env.rs"]
mod env;
#[path = "../build/fetch.rs"]
mod fetch;
#[path = "../build/host.rs"]
mod host;
#[path = "../build/link.rs"]
mod link;
#[path = "../build/messages.rs"]
mod messages;
#[path = "../build/mlx.rs"]
mod mlx;
#[path = "../build/mlxc.rs"]
mod mlxc;
#[path = "../build/source.rs"]
mod source;

use cache::Cache;
use env::Env;
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

/// A folder of one test, gone with it.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let dir = std::env::temp_dir().join(format!("mlx-sys-build-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Temp(dir)
    }

    /// A shell script that plays a program.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Settings as cargo gives them on Linux, with some changed.
fn read(changes: &[(&str, &str)]) -> Result<Env, String> {
    let mut vars = vec![
        ("HOME", "/home/somebody"),
        ("HOST", "x86_64-unknown-linux-gnu"),
        ("CARGO_CFG_TARGET_OS", "linux"),
        ("CARGO_CFG_TARGET_ARCH", "x86_64"),
        ("CARGO_CFG_TARGET_ENV", "gnu"),
        ("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR")),
        ("CARGO", env!("CARGO")),
    ];
    vars.extend_from_slice(changes);
    Env::read(|name| vars.iter().rev().find(|v| v.0 == name).map(|v| OsString::from(v.1)))
}

fn settings(dir: &Path, python: &Path) -> Env {
    let mut env = read(&[]).unwrap();
    (env.cache, env.python) = (dir.join("cache"), python.into());
    env
}

fn find(env: &Env) -> String {
    mlx::find(env, &Cache::new(&env.cache)).err().unwrap()
}

#[test]
fn the_cache_lies_where_the_first_of_three_variables_says() {
    let cache = |vars: &[(&str, &str)]| read(vars).unwrap().cache;
    assert_eq!(cache(&[]), Path::new("/home/somebody/.cache/mlx-sys"));
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/mlx-sys"));
    assert_eq!(cache(&[("XDG_CACHE_HOME", "not/absolute")]), Path::new("/home/somebody/.cache/mlx-sys"));
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("MLX_SYS_CACHE", "/c")]), Path::new("/c"));
    let mac = [("CARGO_CFG_TARGET_OS", "macos"), ("CARGO_CFG_TARGET_ARCH", "aarch64")];
    assert_eq!(cache(&mac), Path::new("/home/somebody/Library/Caches/mlx-sys"));
    let e = read(&[("HOME", "")]).unwrap_err();
    assert!(e.contains("MLX_SYS_CACHE") && e.contains("HOME"), "{e}");
}

#[test]
fn switches_are_read() {
    for (name, value, offline) in [
        ("MLX_OFFLINE", "1", true),
        ("CARGO_NET_OFFLINE", "true", true),
        ("MLX_OFFLINE", "0", false),
        ("MLX_OFFLINE", "", false),
    ] {
        assert_eq!(read(&[(name, value)]).unwrap().offline, offline, "{name}={value}");
    }
    assert!(!read(&[("MLX_SYS_BLAS", "reference")]).unwrap().openblas);
    assert!(read(&[("MLX_SYS_BLAS", "mkl")]).unwrap_err().contains("mkl"));
    assert!(!read(&[("DOCS_RS", "1")]).unwrap().link);
    assert!(!read(&[("CARGO_FEATURE_NO_LINK", "1")]).unwrap().link);
    assert_eq!(read(&[("MLX_CMAKE_ARGS", "-DA=1  -DB=2")]).unwrap().cmake_args, ["-DA=1", "-DB=2"]);
    assert_eq!(read(&[("CARGO_FEATURE_CUDA", "1")]).unwrap().package(), "mlx-cuda-13");
}

#[test]
fn every_supported_system_has_its_wheels_pinned() {
    let env = read(&[]).unwrap();
    for pin in fetch::pins(&env).unwrap() {
        assert!(pin.sha256.len() == 64 && pin.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{pin:?}");
        if pin.package.starts_with("mlx-") {
            assert_eq!(pin.version, mlx::VERSION);
        }
    }
    let number = |package: &str, system: &str| fetch::pinned(&env, package, system).unwrap().len();
    for system in ["linux-x86_64", "linux-aarch64"] {
        for package in ["mlx-cpu", "mlx-cuda-13", "scipy-openblas32", "cmake", "ninja", "libclang"] {
            assert_eq!(number(package, system), 1, "{package} {system}");
        }
    }
    assert_eq!(number("mlx-metal", "macos-aarch64"), 3);
}

#[test]
fn macos_gets_the_newest_wheel_it_can_use() {
    let wheels = || fetch::pinned(&read(&[]).unwrap(), "mlx-metal", "macos-aarch64").unwrap();
    for (system, tag) in [
        ("14.5", "macosx_14_0_arm64"),
        ("15.0.1", "macosx_15_0_arm64"),
        ("25.9", "macosx_15_0_arm64"),
        ("26.1", "macosx_26_0_arm64"),
    ] {
        assert_eq!(mlx::newest(wheels(), system).unwrap().tag, tag);
        assert_eq!(mlx::newest(wheels().into_iter().rev().collect(), system).unwrap().tag, tag);
    }
    assert_eq!(mlx::newest(wheels(), "13.7"), None);
}

#[test]
fn a_missing_python_is_named_with_remedies() {
    let dir = Temp::new("no-python");
    let e = find(&settings(&dir.0, &dir.0.join("python3")));
    for part in ["Python could not be started", "apt install python3-pip", "MLX_SYS_PYTHON", "MLX_DIR"] {
        assert!(e.contains(part), "{part}: {e}");
    }
}

#[test]
fn a_python_without_pip_is_named_with_remedies() {
    let dir = Temp::new("no-pip");
    let python =
        dir.script("python3", r#"[ "$1" = -c ] && [ -z "$2" ] && exit 0; echo "No module named pip" >&2; exit 1"#);
    let e = find(&settings(&dir.0, &python));
    for part in ["has no pip", "No module named pip", "ensurepip", "MLX_DIR"] {
        assert!(e.contains(part), "{part}: {e}");
    }
}

/// A Python whose pip says something and fails.
fn failing_pip(dir: &Temp, says: &str) -> PathBuf {
    let probe = r#"[ "$1" = -c ] && { [ -z "$2" ]; exit; }; [ "$3" = --version ] && exit 0"#;
    dir.script("python3", &format!("{probe}\necho '{says}' >&2; exit 1"))
}

#[test]
fn a_failed_download_shows_pips_words_and_remedies() {
    let dir = Temp::new("no-network");
    let e = find(&settings(&dir.0, &failing_pip(&dir, "ERROR: No matching distribution found")));
    for part in
        ["could not download mlx-cpu 0.32.2", "No matching distribution", "PIP_INDEX_URL", "cache/wheels", "MLX_DIR"]
    {
        assert!(e.contains(part), "{part}: {e}");
    }
}

#[test]
fn offline_says_so_and_asks_for_no_network() {
    let dir = Temp::new("offline");
    let mut env = settings(&dir.0, &failing_pip(&dir, "never shown"));
    env.offline = true;
    let e = find(&env);
    for part in ["offline, and mlx-cpu 0.32.2 is not in the cache", "MLX_OFFLINE", "CARGO_NET_OFFLINE", "MLX_DIR"] {
        assert!(e.contains(part), "{part}: {e}");
    }
}

#[test]
fn changed_bytes_are_refused() {
    // real pip, and a file that only has the right name
    let dir = Temp::new("bytes");
    let mut env = settings(&dir.0, Path::new("python3"));
    env.offline = true;
    let wheel = fetch::pinned(&env, "ninja", "linux-x86_64").unwrap().remove(0);
    let kept = Cache::new(&env.cache).wheels();
    let file = kept.join("ninja-1.13.0-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl");
    cache::write(&file, b"something else").unwrap();
    let e = fetch::unpack(&env, &Cache::new(&env.cache), &wheel, &dir.0.join("stage"), &[]).unwrap_err();
    for part in ["ninja 1.13.0 came with other bytes", "vendor/wheels.txt", &wheel.sha256] {
        assert!(e.contains(part), "{part}: {e}");
    }
}

#[test]
fn an_unusable_mlx_dir_says_what_is_missing_or_wrong() {
    let dir = Temp::new("prefix");
    let mut env = settings(&dir.0, Path::new("python3"));
    env.mlx_dir = Some(dir.0.join("nowhere"));
    assert!(find(&env).contains("there is no such folder"));
    env.mlx_dir = Some(dir.0.clone());
    assert!(find(&env).contains("no include/mlx/version.h"));
    let header = "#define MLX_VERSION_MAJOR 0\n#define MLX_VERSION_MINOR 31\n#define MLX_VERSION_PATCH 7\n";
    cache::write(&dir.0.join("include/mlx/version.h"), header.as_bytes()).unwrap();
    assert!(find(&env).contains("no lib/libmlx.so"));
    cache::write(&dir.0.join("lib/libmlx.so"), b"").unwrap();
    let e = find(&env);
    assert!(e.contains("holds MLX 0.31.7") && e.contains("MLX 0.32.2 alone"), "{e}");
}

#[test]
fn systems_without_a_wheel_are_named() {
    let dir = Temp::new("systems");
    let mut env = settings(&dir.0, Path::new("python3"));
    env.target = "linux-riscv64".into();
    let e = find(&env);
    assert!(e.contains("no ready-made mlx-cpu 0.32.2 for linux-riscv64") && e.contains("`source`"), "{e}");
    env.abi = "musl".into();
    assert!(find(&env).contains("not for musl"));
    let e = messages::old_glibc((2, 31), host::GLIBC, mlx::VERSION);
    assert!(e.contains("glibc is 2.31") && e.contains("2.35 or newer") && e.contains("newer system"), "{e}");
    assert!(messages::old_macos("13.6", mlx::VERSION).contains("macOS 14 or newer, this is 13.6"));
}

#[test]
fn the_feature_source_says_what_it_needs() {
    let dir = Temp::new("source");
    let mut env = settings(&dir.0, Path::new("python3"));
    (env.source, env.offline) = (true, true);
    assert!(find(&env).contains("set MLX_SOURCE_DIR"));
    env.mlx_source = Some(dir.0.clone());
    assert!(find(&env).contains("no CMakeLists.txt"));
}

#[test]
fn a_missing_mlxc_source_is_named() {
    let dir = Temp::new("mlxc");
    let mut env = settings(&dir.0, Path::new("python3"));
    env.cargo = dir.script("cargo", "echo 'no such crate' >&2; exit 101");
    let e = fetch::mlxc_source(&env, &dir.0).unwrap_err();
    assert!(e.contains("no such crate") && e.contains("MLX_C_SOURCE_DIR"), "{e}");
    env.mlxc_source = Some(dir.0.clone());
    assert!(fetch::mlxc_source(&env, &dir.0).unwrap_err().contains("no mlx/c/ops.cpp"));
}

#[test]
fn mlxc_sources_of_another_form_are_refused() {
    let dir = Temp::new("catch");
    fs::write(dir.0.join("a.cpp"), "try {} catch (std::exception& e) { mlx_error(e.what()); }").unwrap();
    assert!(mlxc::catch_everything(&dir.0).unwrap_err().contains("1 catch blocks, 1 reports"));
    fs::write(dir.0.join("a.cpp"), "try {} catch (std::exception& e) { puts(e.what()); }").unwrap();
    assert!(mlxc::catch_everything(&dir.0).unwrap_err().contains("unknown form"));
}

#[test]
fn messages_about_compilers_name_packages() {
    let e = messages::no_compiler("c++: not found");
    for part in ["c++: not found", "apt install g++", "dnf install gcc-c++", "xcode-select --install", "CXX"] {
        assert!(e.contains(part), "{part}: {e}");
    }
    assert!(messages::not_compiled("mlx-c", "").contains("GCC 11"));
    assert!(messages::tool_remedies()[0].contains("apt install cmake ninja-build"));
}

#[test]
fn versions_are_found_in_what_programs_say() {
    assert_eq!(host::version("glibc 2.36"), Some((2, 36)));
    assert_eq!(host::version("cmake version 3.31.10\n\nCMake suite"), Some((3, 31)));
    assert_eq!(host::version("26.0.1"), Some((26, 0)));
    assert_eq!(host::version("none here"), None);
    assert!((2, 9) < host::GLIBC);
}

#[test]
fn an_entry_is_made_once_and_a_failure_leaves_nothing() {
    let dir = Temp::new("entry");
    let cache = Cache::new(&dir.0);
    let e = cache.entry("x", |stage, _| {
        fs::write(stage.join("half"), "").unwrap();
        Err("no".into())
    });
    assert_eq!(e.unwrap_err(), "no");
    assert!(!dir.0.join("x").exists());
    let made = AtomicUsize::new(0);
    let make = || {
        cache.entry("x", |stage, _| {
            made.fetch_add(1, Ordering::SeqCst);
            assert!(!stage.join("half").exists());
            fs::write(stage.join("whole"), "").unwrap();
            Ok(())
        })
    };
    std::thread::scope(|s| {
        (0..4).map(|_| s.spawn(make)).collect::<Vec<_>>().into_iter().for_each(|t| {
            assert!(t.join().unwrap().unwrap().join("whole").exists());
        })
    });
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[test]
fn keys_tell_pieces_apart() {
    assert_ne!(cache::key(&[b"ab", b"c"]), cache::key(&[b"a", b"bc"]));
    assert_eq!(cache::key(&[b"ab"]), cache::key(&[b"ab"]));
}
