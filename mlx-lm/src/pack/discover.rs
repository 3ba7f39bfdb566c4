//! Which models lie under a directory.

use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How deep folders are looked into: `models--org--name/snapshots/commit` is three.
const DEPTH: usize = 5;

/// Model packs under a directory: folders with a config and weights (also those of a Hugging Face cache, whose entries
/// are links), and GGUF files, split ones by their first part. In order of their paths.
///
/// # Errors
/// The directory cannot be read. Folders below it that cannot be are passed over.
pub fn discover(root: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let root = root.as_ref();
    let mut found = BTreeSet::new();
    let entries = fs::read_dir(root).map_err(|e| Error::io(root, e))?;
    look(root, entries, DEPTH, &mut found);
    Ok(found.into_iter().collect())
}

fn look(dir: &Path, entries: fs::ReadDir, depth: usize, found: &mut BTreeSet<PathBuf>) {
    let paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    let has = |name: &str| paths.iter().any(|p| p.file_name().is_some_and(|f| f == name));
    let ends = |p: &Path, e: &str| p.extension().is_some_and(|x| x.eq_ignore_ascii_case(e));
    // a link whose target is gone is no file
    let weights = |p: &&PathBuf| ends(p, "safetensors") && p.is_file();
    if has("config.json") && paths.iter().any(|p| weights(&p)) {
        found.insert(dir.to_owned());
    }
    for path in &paths {
        if ends(path, "gguf") && path.is_file() && first_part(path) {
            found.insert(path.clone());
        } else if depth > 0
            && path.is_dir()
            && let Ok(entries) = fs::read_dir(path)
        {
            look(path, entries, depth - 1, found);
        }
    }
}

/// Not a later part of a split file (`-00002-of-00003.gguf`).
fn first_part(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match stem.rsplit_once("-of-").and_then(|(start, _)| start.rsplit_once('-')) {
        Some((_, n)) if n.len() == 5 && n.bytes().all(|b| b.is_ascii_digit()) => n == "00001",
        _ => true,
    }
}
