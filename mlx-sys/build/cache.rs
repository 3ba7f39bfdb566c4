//! The per-user cache: entries named by the hash of everything that went into them, made once under a
//! lock, in a staging folder that is renamed into place when complete.

use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

pub struct Cache {
    pub dir: PathBuf,
    _lock: fs::File,
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

/// A file's bytes, or a message with its name.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

pub fn make_dir(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|e| format!("cannot make the folder {}: {e}", path.display()))
}

impl Cache {
    /// Waits until no other build works in the cache.
    pub fn lock(dir: &Path) -> Result<Cache, String> {
        make_dir(dir)?;
        let file = dir.join(".lock");
        let say = |e: std::io::Error| format!("cannot lock {}: {e}", file.display());
        let lock = fs::File::create(&file).map_err(say)?;
        lock.lock().map_err(say)?;
        Ok(Cache { dir: dir.into(), _lock: lock })
    }

    /// The entry `name`; `fill(stage, place)` makes it when it is not there: it writes to `stage`, which
    /// then becomes `place`.
    pub fn entry(&self, name: &str, fill: impl FnOnce(&Path, &Path) -> Result<(), String>) -> Result<PathBuf, String> {
        let place = self.dir.join(name);
        if place.exists() {
            return Ok(place);
        }
        let stage = self.dir.join(format!(".stage-{name}"));
        let _ = fs::remove_dir_all(&stage);
        make_dir(&stage)?;
        let result = fill(&stage, &place).and_then(|()| {
            fs::rename(&stage, &place).map_err(|e| format!("cannot move {} into place: {e}", stage.display()))
        });
        if result.is_err() {
            let _ = fs::remove_dir_all(&stage);
        }
        result.map(|()| place)
    }
}
