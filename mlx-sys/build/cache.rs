//! The per-user cache: entries named by the hash of everything that went into them, made once under a
//! lock, in a staging folder that is renamed into place when complete. Nothing in it changes afterwards,
//! so a binary keeps the library it was linked to while newer ones come beside it.

use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub struct Cache {
    pub dir: PathBuf,
}

/// Ten hex digits over the given pieces.
pub fn key(pieces: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update((piece.len() as u64).to_le_bytes());
        hash.update(piece);
    }
    hash.finalize()[..5].iter().map(|b| format!("{b:02x}")).collect()
}

/// An I/O error with the path it is about.
pub fn at(path: &Path) -> impl Fn(io::Error) -> String + '_ {
    move |e| format!("{}: {e}", path.display())
}

/// A file's bytes.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(at(path))
}

pub fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    path.parent().map_or(Ok(()), make_dir)?;
    fs::write(path, bytes).map_err(at(path))
}

pub fn make_dir(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(at(path))
}

pub fn remove(path: &Path) -> Result<(), String> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    result.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }).map_err(at(path))
}

/// The entries of a folder, sorted.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(dir).map_err(at(dir))?;
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(at(dir))?;
    paths.sort();
    Ok(paths)
}

/// Copies a file or a folder with all it holds; links are followed.
pub fn copy(from: &Path, to: &Path) -> Result<(), String> {
    if !from.is_dir() {
        to.parent().map_or(Ok(()), make_dir)?;
        return fs::copy(from, to).map(drop).map_err(at(from));
    }
    make_dir(to)?;
    for path in list(from)? {
        copy(&path, &to.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

impl Cache {
    pub fn new(dir: &Path) -> Cache {
        Cache { dir: dir.into() }
    }

    /// The wheels that were downloaded, for the next build and for other machines.
    pub fn wheels(&self) -> PathBuf {
        self.dir.join("wheels")
    }

    /// The entry `name`; `fill(stage, place)` makes it when it is not there: it writes to `stage`, which
    /// then becomes `place`. Builds that want the same entry wait for the first.
    pub fn entry(&self, name: &str, fill: impl FnOnce(&Path, &Path) -> Result<(), String>) -> Result<PathBuf, String> {
        let place = self.dir.join(name);
        if place.exists() {
            return Ok(place);
        }
        make_dir(&self.dir.join("locks"))?;
        let lock_file = self.dir.join("locks").join(name);
        let lock = fs::File::create(&lock_file).map_err(at(&lock_file))?;
        lock.lock().map_err(at(&lock_file))?;
        if place.exists() {
            return Ok(place);
        }
        let stage = self.dir.join(format!(".stage-{name}"));
        remove(&stage)?;
        make_dir(&stage)?;
        let result = fill(&stage, &place).and_then(|()| fs::rename(&stage, &place).map_err(at(&place)));
        if result.is_err() {
            let _ = remove(&stage);
        }
        result.map(|()| place)
    }
}
