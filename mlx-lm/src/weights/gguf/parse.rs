//! The header of a GGUF file (versions 2 and 3), read without trusting a number in it: every count and length is
//! checked against the bytes that are there before anything is allocated.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::types::GgmlType;
use super::value::{Array, Value};
use crate::weights::Bytes;
use crate::{Error, Result};

/// An open GGUF file.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub path: Arc<Path>,
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: Vec<GgufTensor>,
    bytes: Bytes,
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor {
    pub name: String,
    pub ty: GgmlType,
    /// Row major, slowest first (the file stores dimensions the other way round).
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub range: Range<usize>,
}

impl GgufTensor {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Gguf {
    /// Maps a file and reads its header.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        let path = path.as_ref();
        Gguf::from_bytes(Bytes::map(path)?, path)
    }

    /// `path` is only for messages.
    pub fn from_bytes(bytes: Bytes, path: &Path) -> Result<Gguf> {
        let (version, metadata, tensors) = parse(&bytes).map_err(|message| Error::file(path, message))?;
        Ok(Gguf { path: path.into(), version, metadata, tensors, bytes })
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }
    /// `general.architecture`.
    pub fn architecture(&self) -> Result<&str> {
        let key = "general.architecture";
        self.get(key)
            .and_then(Value::as_str)
            .ok_or_else(|| Error::file(&self.path, format!("metadata {key}: missing or not a string")))
    }
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }
    /// The raw bytes of a tensor of this file.
    pub fn bytes(&self, tensor: &GgufTensor) -> Option<Bytes> {
        self.bytes.slice(tensor.range.clone())
    }
}

type Parsed = (u32, BTreeMap<String, Value>, Vec<GgufTensor>);
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// Deepest nesting of arrays that is read.
const MAX_DEPTH: usize = 4;
/// As GGML's.
const MAX_RANK: usize = 4;

fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let mut r = Reader { bytes, at: 0 };
    if r.take(4)? != b"GGUF" {
        return Err("not a GGUF file (bad magic)".into());
    }
    let version = r.u32()?;
    if !(2..=3).contains(&version) {
        let swapped = version.swap_bytes();
        return Err(match swapped {
            2..=3 => format!("is a big-endian GGUF (version {swapped}), which is not supported"),
            _ => format!("GGUF version {version} is not supported (2 and 3 are)"),
        });
    }
    let n_tensors = r.count("tensor count", 24)?;
    // the smallest entry: an empty key, a type, a byte
    let n_kv = r.count("metadata count", 13)?;
    let mut metadata = BTreeMap::new();
    for i in 0..n_kv {
        let key = r.string().map_err(|m| format!("metadata entry {i}: {m}"))?;
        let value = r.value().map_err(|m| format!("metadata {key:?}: {m}"))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("metadata {key:?} appears twice"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(v) => v
            .as_usize()
            .filter(|a| a.is_power_of_two() && *a <= 1 << 20)
            .ok_or("metadata general.alignment: not a sensible power of two")?,
    };
    let mut raw = Vec::with_capacity(n_tensors);
    let mut names = BTreeSet::new();
    for i in 0..n_tensors {
        let name = r.string().map_err(|m| format!("tensor entry {i}: {m}"))?;
        let entry = r.tensor().map_err(|m| format!("tensor {name:?}: {m}"))?;
        if !names.insert(name.clone()) {
            return Err(format!("tensor {name:?} appears twice"));
        }
        raw.push((name, entry));
    }
    let data_start = r.at.checked_next_multiple_of(alignment).ok_or("the header is too long")?;
    let mut tensors = Vec::with_capacity(n_tensors);
    for (name, (ty, shape, offset, size)) in raw {
        let place = || -> Result<Range<usize>, String> {
            let offset = usize::try_from(offset).map_err(|_| "offset is too large".to_owned())?;
            if offset % alignment != 0 {
                return Err(format!("offset {offset} is not a multiple of the alignment {alignment}"));
            }
            let start = data_start.checked_add(offset).ok_or("offset is too large")?;
            let end = start.checked_add(size).ok_or("offset is too large")?;
            if end > bytes.len() {
                return Err(format!("data ends at byte {end}, but the file has {} (truncated?)", bytes.len()));
            }
            Ok(start..end)
        };
        let range = place().map_err(|m| format!("tensor {name:?}: {m}"))?;
        tensors.push(GgufTensor { name, ty, shape, range });
    }
    let mut order: Vec<&GgufTensor> = tensors.iter().filter(|t| !t.range.is_empty()).collect();
    order.sort_by_key(|t| t.range.start);
    if let Some(pair) = order.windows(2).find(|p| p[0].range.end > p[1].range.start) {
        return Err(format!("tensors {:?} and {:?} overlap", pair[0].name, pair[1].name));
    }
    Ok((version, metadata, tensors))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let piece = self.bytes[self.at..].get(..n);
        let piece =
            piece.ok_or_else(|| format!("truncated: {n} bytes wanted at byte {}, {} left", self.at, self.left()))?;
        self.at += n;
        Ok(piece)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }
    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }
    /// A count of things that take at least `each` bytes of what is left.
    fn count(&mut self, what: &str, each: usize) -> Result<usize, String> {
        let n = self.u64()?;
        let most = self.left() / each.max(1);
        match usize::try_from(n) {
            Ok(n) if n <= most => Ok(n),
            _ => Err(format!("{what} {n} is impossible: {} bytes are left", self.left())),
        }
    }
    fn string(&mut self) -> Result<String, String> {
        let n = self.count("string length", 1)?;
        let at = self.at;
        let text = std::str::from_utf8(self.take(n)?).map_err(|e| format!("string at byte {at}: {e}"))?;
        Ok(text.to_owned())
    }
    fn value(&mut self) -> Result<Value, String> {
        let ty = self.u32()?;
        Ok(match ty {
            0 => Value::U8(self.array::<1>()?[0]),
            1 => Value::I8(self.array::<1>()?[0] as i8),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.u32()? as i32),
            6 => Value::F32(f32::from_bits(self.u32()?)),
            7 => Value::Bool(self.bool()?),
            STRING => Value::Str(self.string()?),
            ARRAY => Value::Array(self.elements(0)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(self.u64()? as i64),
            12 => Value::F64(f64::from_bits(self.u64()?)),
            _ => return Err(format!("unknown value type {ty}")),
        })
    }
    fn bool(&mut self) -> Result<bool, String> {
        match self.array::<1>()?[0] {
            0 => Ok(false),
            1 => Ok(true),
            b => Err(format!("{b} is not a bool")),
        }
    }
    fn elements(&mut self, depth: usize) -> Result<Array, String> {
        if depth >= MAX_DEPTH {
            return Err(format!("arrays nested deeper than {MAX_DEPTH}"));
        }
        let ty = self.u32()?;
        let each = match ty {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            STRING | 10..=12 => 8,
            ARRAY => 12,
            _ => return Err(format!("unknown array type {ty}")),
        };
        let n = self.count("array length", each)?;
        Ok(match ty {
            STRING => Array::Str((0..n).map(|_| self.string()).collect::<Result<_, _>>()?),
            ARRAY => Array::Nested((0..n).map(|_| self.elements(depth + 1)).collect::<Result<_, _>>()?),
            6 => Array::F32(chunks::<4>(self.take(4 * n)?).map(f32::from_le_bytes).collect()),
            12 => Array::F64(chunks::<8>(self.take(8 * n)?).map(f64::from_le_bytes).collect()),
            5 => Array::I32(chunks::<4>(self.take(4 * n)?).map(i32::from_le_bytes).collect()),
            7 => Array::I32((0..n).map(|_| self.bool().map(i32::from)).collect::<Result<_, _>>()?),
            0 => Array::I32(self.take(n)?.iter().map(|&b| b.into()).collect()),
            1 => Array::I32(self.take(n)?.iter().map(|&b| (b as i8).into()).collect()),
            2 => Array::I32(chunks::<2>(self.take(2 * n)?).map(|b| u16::from_le_bytes(b).into()).collect()),
            3 => Array::I32(chunks::<2>(self.take(2 * n)?).map(|b| i16::from_le_bytes(b).into()).collect()),
            4 => Array::ints(chunks::<4>(self.take(4 * n)?).map(|b| u32::from_le_bytes(b).into()).collect()),
            11 => Array::ints(chunks::<8>(self.take(8 * n)?).map(i64::from_le_bytes).collect()),
            _ => {
                let fit = |b| i64::try_from(u64::from_le_bytes(b)).map_err(|_| "an integer is too large".to_owned());
                Array::ints(chunks::<8>(self.take(8 * n)?).map(fit).collect::<Result<_, _>>()?)
            }
        })
    }
    /// Type, shape (slowest first), offset, size in bytes.
    fn tensor(&mut self) -> Result<(GgmlType, Vec<usize>, u64, usize), String> {
        let rank = self.u32()? as usize;
        if rank > MAX_RANK {
            return Err(format!("{rank} dimensions (at most {MAX_RANK})"));
        }
        let mut shape = Vec::with_capacity(rank);
        let mut elements = 1usize;
        for _ in 0..rank {
            let dim = self.u64()?;
            let dim =
                usize::try_from(dim).ok().filter(|d| *d > 0).ok_or_else(|| format!("dimension {dim} is impossible"))?;
            elements = elements.checked_mul(dim).ok_or("the shape is too large")?;
            shape.push(dim);
        }
        let cols = shape.first().copied().unwrap_or(1);
        shape.reverse();
        let id = self.u32()?;
        let ty = GgmlType::from_id(id).ok_or_else(|| format!("unknown type id {id}"))?;
        let offset = self.u64()?;
        if cols % ty.block() != 0 {
            return Err(format!("row length {cols} is not a multiple of the {ty} block of {}", ty.block()));
        }
        let size = (elements / ty.block()).checked_mul(ty.block_bytes()).ok_or("the shape is too large")?;
        Ok((ty, shape, offset, size))
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
