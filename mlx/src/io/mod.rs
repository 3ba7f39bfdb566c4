//! Files of arrays: safetensors, npy, npz, GGUF.
//!
//! All formats are parsed here in Rust; sizes and offsets are checked against the file before anything is read, and every
//! failure names the file.

mod safetensors;

use crate::Array;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

pub use safetensors::*;

/// What a file held.
#[derive(Debug, Clone)]
pub enum Loaded {
    /// One array (npy).
    Array(Array),
    /// Named arrays and, where the format has them, named strings.
    Arrays(BTreeMap<String, Array>, BTreeMap<String, String>),
}

impl Loaded {
    /// The named arrays.
    ///
    /// # Errors
    /// If the file held a single array.
    pub fn into_arrays(self) -> Result<BTreeMap<String, Array>> {
        match self {
            Loaded::Arrays(arrays, _) => Ok(arrays),
            Loaded::Array(_) => Err(Error::Data("the file holds one array without a name".into())),
        }
    }
}

/// Reads a file by its suffix (`mx.load`).
pub fn load(path: impl AsRef<Path>) -> Result<Loaded> {
    let path = path.as_ref();
    match suffix(path) {
        Some("safetensors") => load_safetensors(path).map(|(a, m)| Loaded::Arrays(a, m)),
        _ => Err(Error::file(path, "unknown format: the suffix is not .safetensors")),
    }
}

/// Writes named arrays by the suffix of the path.
pub fn save(path: impl AsRef<Path>, arrays: &[(String, Array)]) -> Result<()> {
    let path = path.as_ref();
    match suffix(path) {
        Some("safetensors") => save_safetensors(path, arrays.iter().map(|(n, a)| (n.as_str(), a)), &BTreeMap::new()),
        _ => Err(Error::file(path, "unknown format: the suffix is not .safetensors")),
    }
}

fn suffix(path: &Path) -> Option<&str> {
    path.extension().and_then(|s| s.to_str())
}
