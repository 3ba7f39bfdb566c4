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
    }
}

/// Runs this binary again in an otherwise empty environment; the path it printed.
fn ask(vars: &[(&str, &Path)]) -> String {
    let mut c = Command::new(env::current_exe().unwrap());
    c.args(["--exact", "loader::child_says_which_libmlx_it_runs_on", "--nocapture", "--test-threads=1"]);
    c.env_clear().env(ASK, "1").envs(vars.iter().copied());
    let out = c.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    said.lines().find_map(|l| l.split_once("loaded: ")).unwrap().1.to_string()
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
    let says = text(|r| unsafe { mlxs_loaded_blas(r) }).unwrap();
    assert_eq!(BUILD.blas == "openblas", says.starts_with("OpenBLAS"), "{says:?}");
}
