//! [`Bytes`]: a piece of a memory map or of a buffer that keeps its owner alive.
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::{Error, Result};

/// Shared, immutable bytes. Clones and slices are cheap and own their memory: they outlive the checkpoint.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

enum Owner {
    Map(Mmap),
    Heap(Vec<u8>),
}

impl Bytes {
    /// Maps a file. The file must not be truncated or rewritten in place while the map lives (replacing it is fine):
    /// the system answers reads beyond its new end with a signal.
    pub fn map(path: &Path) -> Result<Bytes> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        if !meta.is_file() {
            return Err(Error::file(path, "is not a regular file"));
        }
        if meta.len() == 0 {
            return Ok(Bytes::from(Vec::new()));
        }
        // SAFETY: a private read-only map of a file that others may change; its bytes are only ever read as plain
        // integers and floats, of which every bit pattern is valid. The documented rule above covers truncation.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let range = 0..map.len();
        Ok(Bytes { owner: Arc::new(Owner::Map(map)), range })
    }

    /// A sub-range relative to this one; `None` when it does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let range = self.range.start + range.start..self.range.start + range.end;
        Some(Bytes { owner: self.owner.clone(), range })
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Bytes {
        let range = 0..v.len();
        Bytes { owner: Arc::new(Owner::Heap(v)), range }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &*self.owner {
            Owner::Map(m) => m,
            Owner::Heap(v) => v,
        };
        &all[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}
