//! A folder that runs elsewhere: binaries together with the libraries that they would otherwise look for in
//! the build cache of this machine. Linux only.
//!
//! ```text
//! DIR/mlx-lm                      the binary; it now asks for $ORIGIN/lib/libmlxc.so
//! DIR/lib/libmlxc.so              asks for libmlx.so in $ORIGIN/mlx/lib
//! DIR/lib/mlx/lib/libmlx.so       MLX; finds its BLAS by a path of its own, ../../mlx_cpu.libs
//! DIR/lib/mlx_cpu.libs/           OpenBLAS
//! DIR/lib/licenses/               the licences of what is copied
//! ```

use crate::elf::{Elf, NEEDED, RUNPATH, SONAME};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What [`bundle`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The copied binaries.
    pub binaries: Vec<PathBuf>,
    /// All files, binaries and libraries.
    pub files: usize,
    /// Their size together.
    pub bytes: u64,
}

/// Copies `binaries`, which were linked to this crate, and the libraries they need into `dir` (made if it
/// is not there). What is in the way there is overwritten; nothing else is touched. The result needs a
/// glibc at least as new as that of the machine that built it, and 2.35 with the ready-made MLX.
///
/// # Errors
/// If a binary is not a 64-bit ELF file linked to libmlxc, or its libraries are gone (build again), or a
/// file cannot be read or written; the message names the file.
pub fn bundle(dir: &Path, binaries: &[impl AsRef<Path>]) -> io::Result<Bundle> {
    let mut done = Bundle { binaries: Vec::new(), files: 0, bytes: 0 };
    let lib = dir.join("lib");
    let mut from: Option<PathBuf> = None;
    for binary in binaries.iter().map(AsRef::as_ref) {
        let mut elf = Elf::read(binary)?;
        let library = elf.find(NEEDED, "/libmlxc.so")?.map(PathBuf::from);
        let Some(library) = library else {
            return Err(say(binary, "is not linked to a libmlxc.so of the build cache"));
        };
        if library.starts_with("$ORIGIN") {
            return Err(say(binary, "belongs to a bundle already: copy its whole folder"));
        }
        if from.as_ref().is_some_and(|l| *l != library) {
            return Err(say(binary, "is linked to another libmlxc.so than the binary before it"));
        }
        from = Some(library);
        elf.replace(NEEDED, "/libmlxc.so", "$ORIGIN/lib/libmlxc.so")?;
        let to = dir.join(binary.file_name().unwrap_or_default());
        if to.canonicalize().ok().is_some_and(|t| binary.canonicalize().is_ok_and(|b| b == t)) {
            return Err(say(&to, "is the binary itself; bundle into another folder"));
        }
        done.copy(binary, &to)?;
        elf.write(&to)?;
        done.binaries.push(to);
    }
    if let Some(library) = from {
        done.libraries(&library, &lib)?;
    }
    Ok(done)
}

/// The dynamic library's own file name in the folder of MLX.
const MLX: &str = "libmlx.so";

impl Bundle {
    fn libraries(&mut self, library: &Path, lib: &Path) -> io::Result<()> {
        if !library.exists() {
            return Err(say(library, "is gone from the build cache; build again to bring it back"));
        }
        let mut elf = Elf::read(library)?;
        let mlx = elf.find(RUNPATH, "")?.map(PathBuf::from);
        let mlx = mlx
            .filter(|m| m.join(MLX).exists())
            .ok_or_else(|| say(library, "does not lead to libmlx.so; build again"))?;
        elf.replace(SONAME, "/libmlxc.so", "libmlxc.so")?;
        elf.replace(RUNPATH, "", "$ORIGIN/mlx/lib")?;
        self.copy(library, &lib.join("libmlxc.so"))?;
        elf.write(&lib.join("libmlxc.so"))?;
        self.copy(&mlx.join(MLX), &lib.join("mlx/lib").join(MLX))?;
        self.copy(&library.with_file_name("../LICENSE"), &lib.join("licenses/mlx-c/LICENSE"))?;
        // headers that the CUDA build compiles kernels with at run time
        for headers in ["cccl", "cute", "cutlass"] {
            self.copy(&mlx.join("../include").join(headers), &lib.join("mlx/include").join(headers))?;
        }
        // a wheel keeps further libraries and its licence two folders up
        let site = mlx.join("../..");
        for entry in fs::read_dir(&site).map_err(at(&site))? {
            let path = entry.map_err(at(&site))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".libs") && name.starts_with("mlx") {
                self.copy(&path, &lib.join(&name))?;
            } else if let Some(package) = name.strip_suffix(".dist-info") {
                self.copy(&path.join("licenses"), &lib.join("licenses").join(package))?;
            }
        }
        Ok(())
    }

    /// Copies a file, or a folder with all in it; what does not exist is passed over.
    fn copy(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if from.is_dir() {
            for entry in fs::read_dir(from).map_err(at(from))? {
                let path = entry.map_err(at(from))?.path();
                self.copy(&path, &to.join(path.file_name().unwrap_or_default()))?;
            }
        } else if from.exists() {
            let parent = to.parent().unwrap_or(to);
            fs::create_dir_all(parent).map_err(at(parent))?;
            if to.exists() {
                fs::remove_file(to).map_err(at(to))?; // a running binary can be replaced, not written to
            }
            self.bytes += fs::copy(from, to).map_err(at(from))?;
            self.files += 1;
        }
        Ok(())
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn say(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} {what}", path.display()))
}
