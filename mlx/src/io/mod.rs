//! Files of arrays: safetensors, npy, npz, GGUF.
//!
//! All formats are parsed here in Rust; sizes and offsets are checked against the file before anything is read, and every
//! failure names the file.
//!
//! ```
//! use mlx::{array, io};
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("weights.safetensors");
//! let w = array!([[1.0, 2.0], [3.0, 4.0]]);
//! io::save_safetensors(&path, [("w", &w)], &Default::default())?;
//! let arrays = io::load(&path)?.into_arrays()?;
//! assert_eq!(arrays["w"].to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod gguf;
mod gguf_blocks;
mod npy;
mod safetensors;

use crate::Array;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

pub use gguf::*;
pub use npy::*;
pub use safetensors::*;

/// What a file held.
#[derive(Debug, Clone)]
pub enum Loaded {
    /// One array (npy).
    Array(Array),
    /// Named arrays, and the named strings beside them (safetensors, npz).
    Arrays(BTreeMap<String, Array>, BTreeMap<String, String>),
    /// Named arrays and values (GGUF).
    Gguf(BTreeMap<String, Array>, BTreeMap<String, GgufValue>),
}

impl Loaded {
    /// The named arrays.
    ///
    /// # Errors
    /// If the file held a single array.
    pub fn into_arrays(self) -> Result<BTreeMap<String, Array>> {
        match self {
            Loaded::Arrays(arrays, _) | Loaded::Gguf(arrays, _) => Ok(arrays),
            Loaded::Array(_) => Err(Error::Data("the file holds one array without a name".into())),
        }
    }

    /// The single array.
    ///
    /// # Errors
    /// If the file held named arrays.
    pub fn into_array(self) -> Result<Array> {
        match self {
            Loaded::Array(a) => Ok(a),
            _ => Err(Error::Data("the file holds named arrays".into())),
        }
    }
}

/// Reads a file by its suffix (`mx.load`): npy, npz, safetensors, gguf.
pub fn load(path: impl AsRef<Path>) -> Result<Loaded> {
    let path = path.as_ref();
    match suffix(path) {
        Some("safetensors") => load_safetensors(path).map(|(a, m)| Loaded::Arrays(a, m)),
        Some("npy") => load_npy(path).map(Loaded::Array),
        Some("npz") => load_npz(path).map(|(a, m)| Loaded::Arrays(a, m)),
        Some("gguf") => load_gguf(path).map(|(a, m)| Loaded::Gguf(a, m)),
        _ => Err(unknown(path)),
    }
}

/// Writes named arrays by the suffix of the path: safetensors, npz, gguf.
pub fn save_arrays<'a>(path: impl AsRef<Path>, arrays: impl IntoIterator<Item = (&'a str, &'a Array)>) -> Result<()> {
    let path = path.as_ref();
    match suffix(path) {
        Some("safetensors") => save_safetensors(path, arrays, &BTreeMap::new()),
        Some("npz") => savez(path, arrays),
        Some("gguf") => save_gguf(path, arrays, &BTreeMap::new()),
        _ => Err(unknown(path)),
    }
}

fn unknown(path: &Path) -> Error {
    Error::file(path, "unknown format: the suffix is not .safetensors, .npz, .npy or .gguf")
}

fn suffix(path: &Path) -> Option<&str> {
    path.extension().and_then(|s| s.to_str())
}

/// An error about data as one about its file.
fn at(path: &Path, e: Error) -> Error {
    match e {
        Error::Data(message) => Error::file(path, message),
        other => other,
    }
}
