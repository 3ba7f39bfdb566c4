//! GGUF: tensors and metadata of llama.cpp's files, read and written here; MLX's C reader crashes on broken ones.
//!
//! Quantised tensors of the types Q4_0, Q4_1 and Q8_0 come as MLX's packed weights (`<name>.weight`, `.scales`,
//! `.biases`), as in Python; other block types become float16. The crate `mlx-lm` keeps more of them packed.

use super::{at, gguf_blocks};
use crate::error::{Error, Result};
use crate::{Array, Dtype};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// A metadata value: numbers as arrays, or text.
#[derive(Debug, Clone)]
pub enum GgufValue {
    Array(Array),
    String(String),
    Strings(Vec<String>),
}

/// Tensors and metadata of a GGUF file.
pub type Gguf = (BTreeMap<String, Array>, BTreeMap<String, GgufValue>);

const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT: u64 = 32;

fn bad(what: impl Into<String>) -> Error {
    Error::Data(what.into())
}

/// Tensor types that are plain numbers.
const PLAIN: [(u32, Dtype); 8] = [
    (0, Dtype::Float32),
    (1, Dtype::Float16),
    (24, Dtype::Int8),
    (25, Dtype::Int16),
    (26, Dtype::Int32),
    (27, Dtype::Int64),
    (28, Dtype::Float64),
    (30, Dtype::Bfloat16),
];

/// Reads a GGUF file (`mx.load("x.gguf", return_metadata=True)`).
///
/// # Errors
/// If the file is not a whole GGUF file, or has tensors of a type that is not known.
pub fn load_gguf(path: impl AsRef<Path>) -> Result<Gguf> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|e| Error::file(path, e.to_string()))?;
    read_gguf(&mut BufReader::new(file)).map_err(|e| at(path, e))
}

/// [`load_gguf`] from any reader.
pub fn read_gguf(reader: &mut (impl Read + Seek)) -> Result<Gguf> {
    let io = |e: std::io::Error| bad(format!("gguf: {e}"));
    let size = reader.seek(SeekFrom::End(0)).map_err(io)?;
    reader.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut r = Reader { inner: reader, left: size, size };
    if r.bytes(4)? != MAGIC {
        return Err(bad("not a gguf file"));
    }
    let version = r.u32()?;
    if !(2..=3).contains(&version) {
        return Err(bad(format!("gguf version {version} is not known")));
    }
    let (tensors, values) = (r.count(20)?, r.count(13)?);
    let mut metadata = BTreeMap::new();
    for _ in 0..values {
        let key = r.text()?;
        let kind = r.u32()?;
        let value = r.value(kind).map_err(|e| bad(format!("gguf: metadata {key}: {e}")))?;
        metadata.insert(key, value);
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        let name = r.text()?;
        let ndim = r.u32()?;
        if ndim > 8 {
            return Err(bad(format!("gguf: tensor {name} has {ndim} axes")));
        }
        // the file counts from the fastest axis
        let mut shape = Vec::new();
        for _ in 0..ndim {
            shape.push(i32::try_from(r.u64()?).map_err(|_| bad(format!("gguf: tensor {name} is too large")))?);
        }
        shape.reverse();
        let (kind, offset) = (r.u32()?, r.u64()?);
        infos.push((name, shape, kind, offset));
    }
    let alignment = match metadata.get("general.alignment") {
        Some(GgufValue::Array(a)) => a.item::<i64>().ok().and_then(|n| u64::try_from(n).ok()),
        _ => Some(ALIGNMENT),
    };
    let alignment = alignment.filter(|n| n.is_power_of_two() && *n <= 1 << 20);
    let alignment = alignment.ok_or_else(|| bad("gguf: the alignment is not a power of two"))?;
    let start = (size - r.left).next_multiple_of(alignment);
    let mut arrays = BTreeMap::new();
    for (name, shape, kind, offset) in infos {
        let wrong = |what: String| bad(format!("gguf: tensor {name}: {what}"));
        let length = stored_bytes(kind, &shape).map_err(wrong)?;
        let end = start.checked_add(offset).and_then(|from| from.checked_add(length));
        if offset % alignment != 0 || end.is_none_or(|end| end > size) {
            return Err(wrong(format!("{length} bytes at {offset} are not in the file")));
        }
        reader.seek(SeekFrom::Start(start + offset)).map_err(io)?;
        let mut data = vec![0; length as usize];
        reader.read_exact(&mut data).map_err(io)?;
        for (part, a) in decode(kind, &shape, &data)? {
            let full = match (part, name.strip_suffix(".weight")) {
                ("", _) => name.clone(),
                (part, Some(stem)) => format!("{stem}.{part}"),
                ("weight", None) => name.clone(),
                (part, None) => format!("{name}.{part}"),
            };
            if arrays.insert(full.clone(), a).is_some() {
                return Err(bad(format!("gguf: {full} occurs twice")));
            }
        }
    }
    Ok((arrays, metadata))
}

/// (elements, bytes) of a block of a quantised type that MLX packs.
fn block(kind: u32) -> Option<(u64, u64)> {
    match kind {
        2 => Some((32, 18)),
        3 => Some((32, 20)),
        8 => Some((32, 34)),
        _ => None,
    }
}

fn stored_bytes(kind: u32, shape: &[i32]) -> Result<u64, String> {
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).ok_or("too large")?;
    if let Some((_, dtype)) = PLAIN.iter().find(|(k, _)| *k == kind) {
        return elements.checked_mul(dtype.size() as u64).ok_or_else(|| "too large".into());
    }
    let Some((width, bytes)) = block(kind).or(gguf_blocks::size(kind)) else {
        return Err(format!("type {kind} is not known"));
    };
    match shape.last() {
        Some(&n) if (n as u64).is_multiple_of(width) => {
            (elements / width).checked_mul(bytes).ok_or_else(|| "too large".into())
        }
        _ => Err(format!("rows of shape {shape:?} are not whole blocks of {width}")),
    }
}

/// The arrays that a tensor becomes, with the last part of their names.
fn decode(kind: u32, shape: &[i32], data: &[u8]) -> Result<Vec<(&'static str, Array)>> {
    if let Some((_, dtype)) = PLAIN.iter().find(|(k, _)| *k == kind) {
        return Ok(vec![("", Array::try_from_bytes(data, shape, *dtype)?)]);
    }
    if let Some((_, bytes)) = gguf_blocks::size(kind) {
        let blocks = data.chunks_exact(bytes as usize).flat_map(|b| gguf_blocks::decode(kind, b));
        let half: Vec<u8> = blocks.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect();
        return Ok(vec![("", Array::try_from_bytes(&half, shape, Dtype::Float16)?)]);
    }
    let Some((_, bytes)) = block(kind) else { return Err(bad(format!("gguf: type {kind}"))) };
    let (mut words, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    let f16 = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]);
    for b in data.chunks_exact(bytes as usize) {
        let d = f16(b);
        scales.extend(d.to_le_bytes());
        let bias = match kind {
            2 => half::f16::from_f32(d.to_f32() * -8.0),
            3 => f16(&b[2..]),
            _ => half::f16::from_f32(d.to_f32() * -128.0),
        };
        biases.extend(bias.to_le_bytes());
        match kind {
            // element j and j + 16 share a byte; MLX wants neighbours to
            2 | 3 => {
                let q = &b[bytes as usize - 16..];
                words.extend((0..8).map(|i| q[2 * i] & 15 | q[2 * i + 1] << 4));
                words.extend((0..8).map(|i| q[2 * i] >> 4 | q[2 * i + 1] & 0xf0));
            }
            _ => words.extend(b[2..].iter().map(|q| q ^ 0x80)),
        }
    }
    let last = |n: i32| {
        let mut s = shape.to_vec();
        if let Some(l) = s.last_mut() {
            *l = n;
        }
        s
    };
    let width = shape.last().copied().unwrap_or(0);
    let per_word = if kind == 8 { 4 } else { 8 };
    Ok(vec![
        ("weight", Array::try_from_bytes(&words, &last(width / per_word), Dtype::Uint32)?),
        ("scales", Array::try_from_bytes(&scales, &last(width / 32), Dtype::Float16)?),
        ("biases", Array::try_from_bytes(&biases, &last(width / 32), Dtype::Float16)?),
    ])
}

/// Reads with the rest of the file as the bound of every length.
struct Reader<'r, R> {
    inner: &'r mut R,
    left: u64,
    size: u64,
}

impl<R: Read> Reader<'_, R> {
    fn bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        if n > self.left {
            return Err(bad(format!("gguf: {n} bytes at {} of {}: cut short", self.size - self.left, self.size)));
        }
        let mut out = vec![0; n as usize];
        self.inner.read_exact(&mut out).map_err(|e| bad(format!("gguf: {e}")))?;
        self.left -= n;
        Ok(out)
    }
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes(N as u64)?.try_into().map_err(|_| bad("gguf: cut short"))
    }
    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }
    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }
    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, least: u64) -> Result<u64> {
        let n = self.u64()?;
        if n > self.left / least {
            return Err(bad(format!("gguf: a count of {n} in a file of {} bytes", self.size)));
        }
        Ok(n)
    }
    fn text(&mut self) -> Result<String> {
        let n = self.count(1)?;
        String::from_utf8(self.bytes(n)?).map_err(|_| bad("gguf: a name is not UTF-8"))
    }
    fn value(&mut self, kind: u32) -> Result<GgufValue> {
        Ok(match kind {
            8 => GgufValue::String(self.text()?),
            9 => {
                let kind = self.u32()?;
                match number(kind) {
                    Some(dtype) => {
                        let n = self.count(dtype.size() as u64)?;
                        let bytes = self.bytes(n * dtype.size() as u64)?;
                        let n = i32::try_from(n).map_err(|_| bad("an array is too long"))?;
                        GgufValue::Array(Array::try_from_bytes(&bytes, &[n], dtype)?)
                    }
                    None if kind == 8 => {
                        let n = self.count(8)?;
                        GgufValue::Strings((0..n).map(|_| self.text()).collect::<Result<_>>()?)
                    }
                    None => return Err(bad(format!("an array of type {kind}"))),
                }
            }
            _ => match number(kind) {
                Some(dtype) => {
                    let bytes = self.bytes(dtype.size() as u64)?;
                    GgufValue::Array(Array::try_from_bytes(&bytes, &[], dtype)?)
                }
                None => return Err(bad(format!("type {kind}"))),
            },
        })
    }
}

/// Metadata types that are numbers.
const NUMBERS: [(u32, Dtype); 11] = [
    (0, Dtype::Uint8),
    (1, Dtype::Int8),
    (2, Dtype::Uint16),
    (3, Dtype::Int16),
    (4, Dtype::Uint32),
    (5, Dtype::Int32),
    (6, Dtype::Float32),
    (7, Dtype::Bool),
    (10, Dtype::Uint64),
    (11, Dtype::Int64),
    (12, Dtype::Float64),
];

fn number(kind: u32) -> Option<Dtype> {
    NUMBERS.iter().find(|(k, _)| *k == kind).map(|(_, d)| *d)
}

/// Writes a GGUF file (`mx.save_gguf`).
///
/// # Errors
/// If the format has no type for an array's dtype, or the file cannot be written.
pub fn save_gguf<'a>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
    metadata: &BTreeMap<String, GgufValue>,
) -> Result<()> {
    let path = path.as_ref();
    let file = File::create(path).map_err(|e| Error::file(path, e.to_string()))?;
    let mut writer = BufWriter::new(file);
    write_gguf(&mut writer, arrays, metadata).map_err(|e| at(path, e))?;
    writer.flush().map_err(|e| Error::file(path, e.to_string()))
}

/// [`save_gguf`] to any writer.
pub fn write_gguf<'a>(
    writer: &mut impl Write,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
    metadata: &BTreeMap<String, GgufValue>,
) -> Result<()> {
    let arrays: Vec<(&str, &Array)> = arrays.into_iter().collect();
    let mut head = MAGIC.to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((arrays.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    let text = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    };
    for (key, value) in metadata {
        text(&mut head, key);
        match value {
            GgufValue::String(s) => {
                head.extend(8u32.to_le_bytes());
                text(&mut head, s);
            }
            GgufValue::Strings(list) => {
                head.extend(9u32.to_le_bytes());
                head.extend(8u32.to_le_bytes());
                head.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|s| text(&mut head, s));
            }
            GgufValue::Array(a) => {
                let found = NUMBERS.iter().find(|(_, d)| *d == a.dtype()).filter(|_| a.ndim() <= 1);
                let (kind, _) = found.ok_or_else(|| bad(format!("gguf: metadata {key} cannot be {a:?}")))?;
                if a.ndim() == 1 {
                    head.extend(9u32.to_le_bytes());
                    head.extend(kind.to_le_bytes());
                    head.extend((a.size() as u64).to_le_bytes());
                } else {
                    head.extend(kind.to_le_bytes());
                }
                head.extend(a.to_bytes()?);
            }
        }
    }
    let mut offset = 0u64;
    for (name, a) in &arrays {
        let kind = PLAIN.iter().find(|(_, d)| *d == a.dtype()).map(|(k, _)| *k);
        let kind = kind.ok_or_else(|| bad(format!("gguf: tensor {name}: no type for {}", a.dtype())))?;
        text(&mut head, name);
        head.extend((a.ndim() as u32).to_le_bytes());
        a.shape().iter().rev().for_each(|&d| head.extend((d as u64).to_le_bytes()));
        head.extend(kind.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = (offset + a.nbytes() as u64).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    let io = |e: std::io::Error| bad(format!("gguf: {e}"));
    writer.write_all(&head).map_err(io)?;
    for (_, a) in arrays {
        a.with_bytes(|bytes| writer.write_all(bytes))?.map_err(io)?;
        let end = a.nbytes().next_multiple_of(ALIGNMENT as usize);
        writer.write_all(&vec![0; end - a.nbytes()]).map_err(io)?;
    }
    Ok(())
}
