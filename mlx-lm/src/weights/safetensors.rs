//! The header of a safetensors file, validated.
//!
//! Own reader because the `safetensors` crate neither notices duplicate names nor names the tensor in its errors.
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::{Bytes, Dtype};
use crate::{Error, Result};

/// Longest header that is believed (the largest published ones have a few MB).
const MAX_HEADER: u64 = 256 << 20;

/// A tensor of a file: what it is and where its bytes lie.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: Dtype,
    /// Row major, slowest first.
    pub shape: Vec<usize>,
    pub file: Arc<Path>,
    /// Bytes in the file. Of a GGUF tensor that is converted: the source's bytes.
    pub range: Range<usize>,
}

impl TensorInfo {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
    /// Bytes as this dtype and shape.
    pub fn nbytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// The header: tensors in file order and the free-form metadata.
#[derive(Clone, Debug)]
pub struct Header {
    pub tensors: Vec<TensorInfo>,
    pub metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of a file's bytes. Errors name the file and the tensor.
pub fn read(bytes: &[u8], path: &Path) -> Result<Header> {
    let fail = |message: String| Error::file(path, message);
    let (data_start, json) = split(bytes).map_err(fail)?;
    let raw: RawHeader = serde_json::from_slice(json).map_err(|e| fail(format!("bad header: {e}")))?;
    let data = bytes.len() - data_start;
    let file: Arc<Path> = path.into();
    let mut tensors = Vec::with_capacity(raw.entries.len());
    for (name, entry) in raw.entries {
        let (dtype, shape, range) = check(&entry, data).map_err(|m| fail(format!("tensor {name:?}: {m}")))?;
        let range = data_start + range.start..data_start + range.end;
        tensors.push(TensorInfo { name, dtype, shape, file: file.clone(), range });
    }
    overlaps(&tensors).map_err(fail)?;
    Ok(Header { tensors, metadata: raw.metadata })
}

/// Start of the data, and the header's JSON.
fn split(bytes: &[u8]) -> Result<(usize, &[u8]), String> {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!("truncated: {} bytes is too short for a safetensors file", bytes.len()));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        return Err(format!(
            "the header claims {len} bytes (at most {MAX_HEADER} are believed); not a safetensors file?"
        ));
    }
    // fits: at most 2^28
    let len = len as usize;
    let Some(json) = rest.get(..len) else {
        return Err(format!("truncated: the header claims {len} bytes, the file has {} after it", rest.len()));
    };
    if json.first() != Some(&b'{') {
        return Err("bad header: it does not start with '{'".into());
    }
    Ok((8 + len, json))
}

fn check(e: &RawEntry, data: usize) -> Result<(Dtype, Vec<usize>, Range<usize>), String> {
    let dtype = Dtype::from_name(&e.dtype).ok_or_else(|| format!("unknown dtype {:?}", e.dtype))?;
    let mut shape = Vec::with_capacity(e.shape.len());
    let mut size = dtype.size();
    let mut empty = false;
    for &dim in &e.shape {
        let dim = usize::try_from(dim).map_err(|_| format!("dimension {dim} is too large"))?;
        // zero dimensions must not hide an overflow of the others
        size = size.checked_mul(dim.max(1)).ok_or_else(|| format!("shape {:?} is too large", e.shape))?;
        empty |= dim == 0;
        shape.push(dim);
    }
    if empty {
        size = 0;
    }
    let [start, end] = e.data_offsets;
    if start > end {
        return Err(format!("data_offsets [{start}, {end}] run backwards"));
    }
    if end > data as u64 {
        return Err(format!("data ends at {end}, but the file has only {data} bytes of data (truncated?)"));
    }
    let range = start as usize..end as usize;
    if range.len() != size {
        return Err(format!("{} {:?} needs {size} bytes, data_offsets give {}", dtype, e.shape, range.len()));
    }
    Ok((dtype, shape, range))
}

fn overlaps(tensors: &[TensorInfo]) -> Result<(), String> {
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|t| !t.range.is_empty()).collect();
    order.sort_by_key(|t| t.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            return Err(format!("tensors {:?} and {:?} overlap", pair[0].name, pair[1].name));
        }
    }
    Ok(())
}

struct RawHeader {
    entries: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<RawHeader, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { entries: Vec::new(), metadata: BTreeMap::new() };
                let mut seen = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name:?} appears twice")));
                    }
                    if name == "__metadata__" {
                        let meta = map.next_value::<Option<BTreeMap<String, String>>>()?;
                        header.metadata = meta.unwrap_or_default();
                        continue;
                    }
                    let entry = map.next_value().map_err(|e| A::Error::custom(format!("tensor {name:?}: {e}")))?;
                    header.entries.push((name, entry));
                }
                Ok(header)
            }
        }
        d.deserialize_map(Entries)
    }
}

/// An open safetensors file in memory or mapped.
#[derive(Clone, Debug)]
pub struct File {
    header: Header,
    index: BTreeMap<String, usize>,
    bytes: Bytes,
    path: Arc<Path>,
}

impl File {
    /// Maps a file and checks its header.
    pub fn open(path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        File::from_bytes(Bytes::map(path)?, path)
    }
    /// `path` is only for messages.
    pub fn from_bytes(bytes: Bytes, path: &Path) -> Result<File> {
        let header = read(&bytes, path)?;
        let index = header.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(File { header, index, bytes, path: path.into() })
    }
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }
    pub fn header(&self) -> &Header {
        &self.header
    }
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.header.tensors[i])
    }
    /// The bytes of a tensor, borrowed from the map.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.bytes.get(self.info(name)?.range.clone())
    }
    /// The bytes of a tensor, sharing ownership of the map.
    pub fn shared(&self, name: &str) -> Option<Bytes> {
        self.bytes.slice(self.info(name)?.range.clone())
    }
}
