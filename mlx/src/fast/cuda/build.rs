//! From source to machine code, kept on disk between runs in a private folder of the user.

use mlx_sys as sys;
use std::path::{Path, PathBuf};

/// Machine code of `source` for `arch`.
///
/// # Errors
/// The compiler's messages. A cache that cannot be read or written only costs time.
pub(super) fn image(source: &str, arch: &str) -> Result<Vec<u8>, String> {
    let (major, minor) = sys::nvrtc_version().ok_or("libnvrtc was not found")?;
    let file = folder().map(|f| f.join(format!("{:032x}.cubin", key(&[source, arch, &format!("{major}.{minor}")]))));
    if let Some(code) = file.as_deref().and_then(read) {
        return Ok(code);
    }
    let code = sys::nvrtc_compile(source, arch)?;
    if let Some(file) = file {
        write(&file, &code);
    }
    Ok(code)
}

/// FNV-1a in 128 bits over the parts and their lengths.
fn key(parts: &[&str]) -> u128 {
    let mut h = 0x6c62272e07bb014262b821756295c58d_u128;
    let mut add = |b: u8| h = (h ^ u128::from(b)).wrapping_mul(0x0000000001000000000000000000013b);
    for p in parts {
        p.len().to_le_bytes().into_iter().chain(p.bytes()).for_each(&mut add);
    }
    h
}

fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("mlx-rust").join("cuda"))
}

/// A file is an ELF image and its length before it; anything else is taken as missing.
fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let (length, code) = bytes.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*length) == code.len() as u64 && code.starts_with(b"\x7fELF")).then(|| code.to_vec())
}

/// Written beside and renamed, so that readers see a whole file or none.
fn write(file: &Path, code: &[u8]) {
    let Some(folder) = file.parent() else { return };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let temporary = file.with_extension(format!("{}.part", std::process::id()));
    let bytes = [&(code.len() as u64).to_le_bytes()[..], code].concat();
    let done = builder.create(folder).and_then(|()| std::fs::write(&temporary, bytes));
    if done.and_then(|()| std::fs::rename(&temporary, file)).is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
}
