//! Where the loader finds the library, and that LD_LIBRARY_PATH can put another one first.
#![cfg(target_os = "linux")]

use crate::support::*;
use mlx_sys::*;
use std::{env, fs, path::Path, process::Command};

const ASK: &str = "MLX_SYS_TEST_ASK";

/// Not a test of its own: the child that the tests below start.
#[test]
fn child_says_which_libmlx_it_runs_on() {
    if env::var_os(ASK).is_some() {
        println!("loaded: {}", text(|r| unsafe { mlxs_loaded_mlx(r) }).unwrap());
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        println!("from the cache: {}", maps.lines().filter(|l| l.contains(BUILD.cache)).count());
    }
}

/// Runs this binary again in an otherwise empty environment; the path it printed.
fn ask(vars: &[(&str, &Path)]) -> String {
    run(&env::current_exe().unwrap(), vars).0
}

/// The path of libmlx, and how many mappings are files of the build cache.
fn run(binary: &Path, vars: &[(&str, &Path)]) -> (String, usize) {
    let mut c = Command::new(binary);
    c.args(["--exact", "loader::child_says_which_libmlx_it_runs_on", "--nocapture", "--test-threads=1"]);
    c.env_clear().env(ASK, "1").envs(vars.iter().copied());
    let out = c.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let after = |mark: &str| said.lines().find_map(|l| l.split_once(mark)).unwrap().1.to_string();
    (after("loaded: "), after("from the cache: ").parse().unwrap())
}

#[test]
fn with_nothing_set_the_library_of_the_build_is_found() {
    let loaded = fs::canonicalize(ask(&[])).unwrap();
    assert_eq!(loaded, fs::canonicalize(Path::new(BUILD.mlx_lib).join("libmlx.so")).unwrap());
}

#[test]
fn every_symbol_of_every_library_resolves() {
    // the OpenBLAS stub must carry all names that libmlx imports
    ask(&[("LD_BIND_NOW", "1".as_ref())]);
}

#[test]
fn another_libmlx_on_the_library_path_comes_first() {
    // as for the CUDA build of MLX: its own folder, its own dependencies beside it
    let site = env::temp_dir().join(format!("mlx-sys-other-{}", std::process::id()));
    let lib = site.join("mlx/lib");
    fs::create_dir_all(&lib).unwrap();
    fs::copy(Path::new(BUILD.mlx_lib).join("libmlx.so"), lib.join("libmlx.so")).unwrap();
    for dir in fs::read_dir(Path::new(BUILD.mlx_lib).join("../..")).unwrap().flatten() {
        if dir.path().extension().is_some_and(|e| e == "libs") {
            std::os::unix::fs::symlink(dir.path(), site.join(dir.file_name())).unwrap();
        }
    }
    let loaded = ask(&[("LD_LIBRARY_PATH", &lib)]);
    fs::remove_dir_all(&site).unwrap();
    assert_eq!(Path::new(&loaded), lib.join("libmlx.so"));
}

#[test]
fn openblas_is_loaded_if_the_build_says_so() {
    // where MLX came with its own choice, that may be a system OpenBLAS
    if BUILD.blas == "own" {
        return;
    }
    let says = text(|r| unsafe { mlxs_loaded_blas(r) }).unwrap();
    assert_eq!(BUILD.blas == "openblas", says.starts_with("OpenBLAS"), "{says:?}");
}

#[test]
fn a_bundle_runs_without_the_build_cache() {
    let dir = env::temp_dir().join(format!("mlx-sys-bundle-{}", std::process::id()));
    let me = env::current_exe().unwrap();
    let made = bundle(&dir, &[&me]).unwrap();
    assert_eq!(made.binaries, [dir.join(me.file_name().unwrap())]);
    assert!(made.files >= 3 && made.bytes > 1 << 20, "{made:?}");
    for name in ["lib/licenses/mlx-c/LICENSE", "lib/libmlxc.so", "lib/mlx/lib/libmlx.so"] {
        assert!(dir.join(name).exists(), "{name}");
    }
    assert!(run(&me, &[]).1 > 0);
    assert_eq!(run(&made.binaries[0], &[]), (dir.join("lib/mlx/lib/libmlx.so").display().to_string(), 0));
    // moved elsewhere it still runs, and can be made again over itself
    let moved = dir.with_extension("moved");
    fs::rename(&dir, &moved).unwrap();
    let binary = moved.join(me.file_name().unwrap());
    assert_eq!(run(&binary, &[]), (moved.join("lib/mlx/lib/libmlx.so").display().to_string(), 0));
    assert_eq!(bundle(&moved, &[&me]).unwrap().bytes, made.bytes);
    let again = bundle(&dir, &[&binary]).unwrap_err().to_string();
    fs::remove_dir_all(&moved).unwrap();
    assert!(again.contains("belongs to a bundle already"), "{again}");
    let own = bundle(me.parent().unwrap(), &[&me]).unwrap_err().to_string();
    assert!(own.contains("is the binary itself"), "{own}");
}

#[test]
fn files_that_cannot_be_bundled_are_named() {
    let dir = env::temp_dir().join(format!("mlx-sys-bundle-bad-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let me = fs::read(env::current_exe().unwrap()).unwrap();
    let file = dir.join("program");
    for (bytes, says) in [(&b"#!/bin/sh"[..], "not a 64-bit"), (&me[..64], "damaged"), (&me[..4096], "damaged")] {
        fs::write(&file, bytes).unwrap();
        let e = bundle(&dir.join("out"), &[&file]).unwrap_err().to_string();
        assert!(e.contains(says) && e.contains("program"), "{e}");
    }
    let e = bundle(&dir.join("out"), &["/bin/sh"]).unwrap_err().to_string();
    fs::remove_dir_all(&dir).unwrap();
    assert!(e.contains("/bin/sh is not linked to a libmlxc.so"), "{e}");
}
