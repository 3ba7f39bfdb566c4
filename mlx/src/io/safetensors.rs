//! The safetensors format: a length, a JSON header, and little-endian data.

use super::at;
use crate::error::{Error, Result};
use crate::{Array, Dtype};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Longest header that is read, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

const TAGS: [(&str, Dtype); 14] = [
    ("BOOL", Dtype::Bool),
    ("U8", Dtype::Uint8),
    ("U16", Dtype::Uint16),
    ("U32", Dtype::Uint32),
    ("U64", Dtype::Uint64),
    ("I8", Dtype::Int8),
    ("I16", Dtype::Int16),
    ("I32", Dtype::Int32),
    ("I64", Dtype::Int64),
    ("F16", Dtype::Float16),
    ("BF16", Dtype::Bfloat16),
    ("F32", Dtype::Float32),
    ("F64", Dtype::Float64),
    ("C64", Dtype::Complex64),
];

/// Named arrays and the strings beside them.
pub type Named = (BTreeMap<String, Array>, BTreeMap<String, String>);

/// Reads a safetensors file: arrays and metadata (`mx.load(path, return_metadata=True)`).
///
/// 8-bit floats (`F8_E4M3`, `F8_E8M0`, `F8_E5M2`) come as uint8.
///
/// # Errors
/// If the file cannot be read or is not a whole safetensors file.
pub fn load_safetensors(path: impl AsRef<Path>) -> Result<Named> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|e| Error::file(path, e.to_string()))?;
    read_safetensors(&mut BufReader::new(file)).map_err(|e| at(path, e))
}

/// As [`load_safetensors`] from any reader.
pub fn read_safetensors(reader: &mut (impl Read + Seek)) -> Result<Named> {
    let io = |e: std::io::Error| Error::Data(e.to_string());
    let size = reader.seek(SeekFrom::End(0)).map_err(io)?;
    reader.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(|_| Error::Data("too short for a safetensors file".into()))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > size - 8 {
        return Err(Error::Data(format!("safetensors header of {length} bytes in a file of {size}")));
    }
    let mut header = vec![0; length as usize];
    reader.read_exact(&mut header).map_err(io)?;
    let entries = parse_header(&header, size - 8 - length)?;
    let mut arrays = BTreeMap::new();
    let mut buffer = Vec::new();
    for e in entries.tensors {
        reader.seek(SeekFrom::Start(8 + length + e.start)).map_err(io)?;
        buffer.resize((e.end - e.start) as usize, 0);
        reader.read_exact(&mut buffer).map_err(|err| Error::Data(format!("tensor {}: {err}", e.name)))?;
        arrays.insert(e.name, Array::try_from_bytes(&buffer, &e.shape, e.dtype)?);
    }
    Ok((arrays, entries.metadata))
}

struct Header {
    tensors: Vec<Entry>,
    metadata: BTreeMap<String, String>,
}

struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<i32>,
    start: u64,
    end: u64,
}

fn parse_header(bytes: &[u8], data: u64) -> Result<Header> {
    let bad = |what: String| Error::Data(format!("safetensors header: {what}"));
    let header: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    let mut out = Header { tensors: Vec::new(), metadata: BTreeMap::new() };
    for (name, value) in header {
        if name == "__metadata__" {
            // Python's MLX writes null where there is none
            if value.is_null() {
                continue;
            }
            let strings = value.as_object().ok_or_else(|| bad("__metadata__ is not an object".into()))?;
            for (key, text) in strings {
                let text = text.as_str().ok_or_else(|| bad(format!("metadata {key} is not a string")))?;
                out.metadata.insert(key.clone(), text.into());
            }
            continue;
        }
        out.tensors.push(entry(&name, &value, data).map_err(|what| bad(format!("tensor {name}: {what}")))?);
    }
    // in the order of the file, which reads it front to back
    out.tensors.sort_by_key(|e| (e.start, e.end));
    if let Some(w) = out.tensors.windows(2).find(|w| w[1].start < w[0].end) {
        return Err(bad(format!("tensors {} and {} overlap", w[0].name, w[1].name)));
    }
    Ok(out)
}

fn entry(name: &str, value: &Value, data: u64) -> Result<Entry, String> {
    let tag = value["dtype"].as_str().ok_or("no dtype")?;
    let dtype = match TAGS.iter().find(|(t, _)| *t == tag) {
        Some((_, dtype)) => *dtype,
        None if matches!(tag, "F8_E4M3" | "F8_E8M0" | "F8_E5M2") => Dtype::Uint8,
        None => return Err(format!("unknown dtype {tag}")),
    };
    let shape: Vec<i32> = value["shape"]
        .as_array()
        .and_then(|dims| dims.iter().map(|d| d.as_u64().and_then(|d| i32::try_from(d).ok())).collect())
        .ok_or("the shape is not a list of sizes")?;
    let (start, end) = match value["data_offsets"].as_array().map(Vec::as_slice) {
        Some([start, end]) => start.as_u64().zip(end.as_u64()).ok_or("data_offsets are not numbers")?,
        _ => return Err("data_offsets are not two numbers".into()),
    };
    let elements = shape.iter().try_fold(dtype.size() as u64, |n, &d| n.checked_mul(d as u64));
    if end > data || start > end {
        return Err(format!("bytes {start}..{end} of {data}: the file is cut short"));
    }
    if elements != Some(end - start) {
        return Err(format!("{} bytes do not fill shape {shape:?} of {dtype}", end - start));
    }
    Ok(Entry { name: name.into(), dtype, shape, start, end })
}

/// Writes a safetensors file (`mx.save_safetensors`).
pub fn save_safetensors<'a>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let file = File::create(path).map_err(|e| Error::file(path, e.to_string()))?;
    let mut writer = BufWriter::new(file);
    write_safetensors(&mut writer, arrays, metadata).map_err(|e| at(path, e))?;
    writer.flush().map_err(|e| Error::file(path, e.to_string()))
}

/// As [`save_safetensors`] to any writer.
pub fn write_safetensors<'a>(
    writer: &mut impl Write,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let arrays: Vec<(&str, &Array)> = arrays.into_iter().collect();
    let mut header = Map::new();
    let strings: Map<String, Value> = metadata.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    header.insert("__metadata__".into(), Value::Object(strings));
    let mut offset = 0;
    for (name, a) in &arrays {
        let tag = TAGS.iter().find(|(_, d)| *d == a.dtype()).map_or("", |(tag, _)| tag);
        let end = offset + a.nbytes();
        let entry = json!({ "dtype": tag, "shape": a.shape(), "data_offsets": [offset, end] });
        if *name == "__metadata__" || header.insert((*name).into(), entry).is_some() {
            return Err(Error::Data(format!("two arrays are named {name}, or the name is reserved")));
        }
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // data starts at a multiple of 8
    header.resize(header.len().next_multiple_of(8), b' ');
    crate::eval(arrays.iter().map(|(_, a)| *a))?;
    let io = |e: std::io::Error| Error::Data(e.to_string());
    writer.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    writer.write_all(&header).map_err(io)?;
    for (_, a) in arrays {
        a.with_bytes(|bytes| writer.write_all(bytes))?.map_err(io)?;
    }
    Ok(())
}
