//! What the build says when it cannot go on: what happened, what was seen, and what to do about it.

use std::path::Path;

/// One failure: a line, the evidence indented, the remedies as a list.
pub fn failure(what: &str, seen: &str, remedies: &[String]) -> String {
    let mut text = what.to_string();
    for line in seen.trim().lines() {
        text += &format!("\n    {line}");
    }
    if !remedies.is_empty() {
        text += "\n  What helps, one of:";
    }
    for remedy in remedies {
        text += &format!("\n  - {remedy}");
    }
    text
}

fn use_prefix(version: &str) -> String {
    format!("set MLX_DIR to a folder with include/ and lib/ of MLX {version}")
}

pub fn no_python(python: &Path, seen: &str) -> String {
    failure(
        &format!("Python could not be started as `{}`; it is needed to download MLX", python.display()),
        seen,
        &[
            "install Python 3 with pip (Debian, Ubuntu: apt install python3-pip; Fedora: dnf install python3-pip)"
                .into(),
            "set MLX_SYS_PYTHON to a Python 3 that has pip".into(),
            "set MLX_DIR to an installed MLX (docs/install.md)".into(),
        ],
    )
}

pub fn no_pip(python: &Path, seen: &str) -> String {
    failure(
        &format!("`{}` has no pip; it is needed to download MLX", python.display()),
        seen,
        &[
            "install pip (Debian, Ubuntu: apt install python3-pip; elsewhere: python3 -m ensurepip)".into(),
            "set MLX_SYS_PYTHON to a Python 3 that has pip".into(),
            "set MLX_DIR to an installed MLX (docs/install.md)".into(),
        ],
    )
}

/// `what` is a package and its version; `kept` the cache's folder of wheels.
pub fn not_downloaded(what: &str, kept: &Path, seen: &str, also: &[String]) -> String {
    let mut remedies = vec![
        "connect to a package index (pip's own settings count: PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf, a proxy)"
            .into(),
        format!("put the wheel into {}", kept.display()),
    ];
    remedies.extend_from_slice(also);
    failure(&format!("could not download {what}"), seen, &remedies)
}

pub fn offline(what: &str, kept: &Path, also: &[String]) -> String {
    let mut remedies = vec![
        "build once without MLX_OFFLINE and CARGO_NET_OFFLINE".to_string(),
        format!("put the wheel into {}", kept.display()),
    ];
    remedies.extend_from_slice(also);
    failure(&format!("offline, and {what} is not in the cache"), "", &remedies)
}

pub fn wrong_bytes(what: &str, seen: &str) -> String {
    failure(
        &format!("{what} came with other bytes than those pinned in vendor/wheels.txt; they were not used"),
        seen,
        &["find out who changed the file: your package index or mirror, or the wheel folder of the build cache".into()],
    )
}

pub fn mlx_remedies(version: &str) -> Vec<String> {
    vec![use_prefix(version)]
}

pub fn tool_remedies() -> Vec<String> {
    vec!["install cmake 3.20 or newer and ninja (Debian, Ubuntu: apt install cmake ninja-build; macOS: brew install cmake ninja)".into()]
}

pub fn no_wheel(target: &str, package: &str, version: &str) -> String {
    failure(
        &format!("there is no ready-made {package} {version} for {target}"),
        "",
        &[use_prefix(version), "build MLX itself: feature `source` (docs/install.md)".into()],
    )
}

pub fn musl(version: &str) -> String {
    failure(
        &format!("MLX {version} is published for glibc, not for musl"),
        "",
        &[
            "build for the target *-unknown-linux-gnu".into(),
            use_prefix(version),
            "build MLX itself: feature `source`".into(),
        ],
    )
}

pub fn old_glibc(found: (u32, u32), need: (u32, u32), version: &str) -> String {
    failure(
        &format!(
            "this system's glibc is {}.{}; the ready-made MLX {version} needs {}.{} or newer (Debian 12, Ubuntu 22.04, Fedora 36)",
            found.0, found.1, need.0, need.1
        ),
        "",
        &["use a newer system or container".into(), use_prefix(version), "build MLX itself: feature `source`".into()],
    )
}

pub fn old_macos(found: &str, version: &str) -> String {
    failure(
        &format!("the ready-made MLX {version} needs macOS 14 or newer, this is {found}"),
        "",
        &["update macOS".into(), use_prefix(version)],
    )
}

pub fn no_compiler(seen: &str) -> String {
    failure(
        "no working C++ compiler was found; it is needed once, for mlx-c",
        seen,
        &[
            "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
                .into(),
            "set CXX to a C++20 compiler".into(),
        ],
    )
}

pub fn not_compiled(what: &str, seen: &str) -> String {
    failure(
        &format!("compiling {what} failed; the compiler's own words are above"),
        seen,
        &["use GCC 11 or newer, or Clang 14 or newer (set CXX)".into(), "report it, with everything above".into()],
    )
}

pub fn bad_prefix(variable: &str, dir: &Path, missing: &str) -> String {
    failure(
        &format!("{variable} is {}, where there is no {missing}", dir.display()),
        "",
        &[format!("point {variable} at a folder that has it"), format!("unset {variable} to let the build fetch MLX")],
    )
}

pub fn other_version(variable: &str, dir: &Path, found: &str, need: &str) -> String {
    failure(
        &format!("{variable} is {}, which holds MLX {found}; this build works with MLX {need} alone", dir.display()),
        "",
        &[format!("install MLX {need} there"), format!("unset {variable} to let the build fetch MLX {need}")],
    )
}

pub fn no_mlxc(offline: bool, seen: &str) -> String {
    let first = if offline { "build once online" } else { "connect to a crate registry (cargo's own settings count)" };
    failure(
        "could not fetch mlx-c's source, which cargo brings as the crate mlx-sys 0.7.0",
        seen,
        &[first.into(), "set MLX_C_SOURCE_DIR to the source tree of mlx-c 0.7.0".into()],
    )
}

pub fn no_nvidia(python: &Path) -> String {
    format!(
        "NVIDIA's libraries (cuDNN, cuBLAS, NCCL, cuFFT, NVRTC) were not found in `{}`'s packages: install them \
         (pip install 'mlx[cuda13]==0.32.2') and build again, or have them on LD_LIBRARY_PATH",
        python.display()
    )
}

pub fn slow_blas(seen: &str) -> String {
    let first = seen.lines().next().unwrap_or_default();
    format!("OpenBLAS could not be had ({first}); MLX's slow reference BLAS stays in place")
}
