//! NumPy's formats: one array (npy), and a zip archive of them (npz).

use super::{Named, at};
use crate::error::{Error, Result};
use crate::{Array, Dtype};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read.
const MAX_HEADER: usize = 1 << 20;

/// Type codes; a bfloat16 array is two opaque bytes, as Python's MLX writes it.
const CODES: [(&str, Dtype); 14] = [
    ("b1", Dtype::Bool),
    ("u1", Dtype::Uint8),
    ("u2", Dtype::Uint16),
    ("u4", Dtype::Uint32),
    ("u8", Dtype::Uint64),
    ("i1", Dtype::Int8),
    ("i2", Dtype::Int16),
    ("i4", Dtype::Int32),
    ("i8", Dtype::Int64),
    ("f2", Dtype::Float16),
    ("V2", Dtype::Bfloat16),
    ("f4", Dtype::Float32),
    ("f8", Dtype::Float64),
    ("c8", Dtype::Complex64),
];

fn bad(what: impl Into<String>) -> Error {
    Error::Data(what.into())
}

/// Reads one array (`mx.load("x.npy")`).
///
/// # Errors
/// If the data is not a whole npy file of a dtype that MLX has.
pub fn read_npy(reader: &mut impl Read) -> Result<Array> {
    let io = |e: std::io::Error| bad(format!("npy: {e}"));
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(io)?;
    if !start.starts_with(MAGIC) {
        return Err(bad("not an npy file"));
    }
    let length = match start[6] {
        1 => {
            let mut n = [0; 2];
            reader.read_exact(&mut n).map_err(io)?;
            u16::from_le_bytes(n) as usize
        }
        2 | 3 => {
            let mut n = [0; 4];
            reader.read_exact(&mut n).map_err(io)?;
            u32::from_le_bytes(n) as usize
        }
        version => return Err(bad(format!("npy version {version} is not known"))),
    };
    if length > MAX_HEADER {
        return Err(bad(format!("npy header of {length} bytes")));
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header).map_err(io)?;
    let header = Header::parse(std::str::from_utf8(&header).map_err(|e| bad(format!("npy header: {e}")))?)?;
    let mut data = Vec::new();
    // grows as data comes: a header that lies allocates nothing
    reader.take(header.bytes as u64).read_to_end(&mut data).map_err(io)?;
    if data.len() != header.bytes {
        return Err(bad(format!("npy: {} bytes of {}, the file is cut short", data.len(), header.bytes)));
    }
    if header.big_endian {
        let part = header.dtype.size() / if header.dtype == Dtype::Complex64 { 2 } else { 1 };
        data.chunks_exact_mut(part).for_each(<[u8]>::reverse);
    }
    if !header.fortran {
        return Array::try_from_bytes(&data, &header.shape, header.dtype);
    }
    let reversed: Vec<i32> = header.shape.iter().rev().copied().collect();
    let a = Array::try_from_bytes(&data, &reversed, header.dtype)?;
    crate::catch(|| crate::contiguous(&a.t()))
}

#[derive(Debug)]
struct Header {
    dtype: Dtype,
    big_endian: bool,
    fortran: bool,
    shape: Vec<i32>,
    bytes: usize,
}

impl Header {
    /// From the text of a Python dict: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
    fn parse(text: &str) -> Result<Header> {
        let wrong = || bad(format!("npy header {text:?}"));
        let value = |key: &str| {
            let rest =
                ["'", "\""].iter().find_map(|q| text.split_once(&format!("{q}{key}{q}"))).map(|(_, rest)| rest)?;
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        };
        let descr = value("descr").ok_or_else(wrong)?;
        let quote = descr.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or_else(wrong)?;
        let code = descr[1..].split(quote).next().ok_or_else(wrong)?;
        let (order, kind) = code.split_at_checked(1).ok_or_else(wrong)?;
        let kind = if matches!(order, "<" | ">" | "|" | "=") { kind } else { code };
        let found = CODES.iter().find(|(c, _)| *c == kind).or((kind == "?").then_some(&CODES[0]));
        let (_, dtype) = *found.ok_or_else(|| bad(format!("npy: dtype {code:?} is not one of MLX")))?;
        let fortran = match value("fortran_order").ok_or_else(wrong)? {
            v if v.starts_with("True") => true,
            v if v.starts_with("False") => false,
            _ => return Err(wrong()),
        };
        let shape = value("shape").and_then(|v| v.strip_prefix('(')?.split_once(')')).ok_or_else(wrong)?.0;
        let dims = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
        let shape: Vec<i32> =
            dims.map(|d| d.trim_end_matches('L').parse().map_err(|_| wrong())).collect::<Result<_>>()?;
        let count = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(usize::try_from(d).ok()?));
        let bytes = count.ok_or_else(|| bad(format!("npy: shape {shape:?}")))?;
        Ok(Header { dtype, big_endian: order == ">" && dtype.size() > 1, fortran, shape, bytes })
    }
}

/// Writes one array.
pub fn write_npy(writer: &mut impl Write, a: &Array) -> Result<()> {
    let io = |e: std::io::Error| bad(format!("npy: {e}"));
    let (code, _) = CODES.iter().find(|(_, d)| *d == a.dtype()).ok_or_else(|| bad("npy: unknown dtype"))?;
    let order = if a.itemsize() > 1 { '<' } else { '|' };
    let dims: String = a.shape().iter().map(|d| format!("{d}, ")).collect();
    // one dimension keeps its comma, as a Python tuple does
    let dims = if a.ndim() == 1 { dims.trim_end() } else { dims.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{order}{code}', 'fortran_order': False, 'shape': ({dims}), }}");
    // data starts at a multiple of 64
    while !(MAGIC.len() + 4 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    writer.write_all(MAGIC).map_err(io)?;
    writer.write_all(&[1, 0]).map_err(io)?;
    writer.write_all(&(header.len() as u16).to_le_bytes()).map_err(io)?;
    writer.write_all(header.as_bytes()).map_err(io)?;
    a.with_bytes(|bytes| writer.write_all(bytes))?.map_err(io)
}

/// Reads an npy file.
pub fn load_npy(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|e| Error::file(path, e.to_string()))?;
    read_npy(&mut BufReader::new(file)).map_err(|e| at(path, e))
}

/// Writes an npy file (`mx.save`); the suffix is added where it lacks.
pub fn save(path: impl AsRef<Path>, a: &Array) -> Result<()> {
    let path = &suffixed(path.as_ref(), "npy");
    let file = File::create(path).map_err(|e| Error::file(path, e.to_string()))?;
    let mut writer = BufWriter::new(file);
    write_npy(&mut writer, a).map_err(|e| at(path, e))?;
    writer.flush().map_err(|e| Error::file(path, e.to_string()))
}

fn suffixed(path: &Path, suffix: &str) -> std::path::PathBuf {
    match path.extension() {
        Some(s) if s == suffix => path.into(),
        _ => {
            let mut name = path.as_os_str().to_owned();
            name.push(".");
            name.push(suffix);
            name.into()
        }
    }
}

/// Reads the arrays of an npz archive.
pub fn read_npz(reader: impl Read + Seek) -> Result<BTreeMap<String, Array>> {
    let mut archive = ZipArchive::new(reader).map_err(|e| bad(format!("npz: {e}")))?;
    let mut out = BTreeMap::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| bad(format!("npz: {e}")))?;
        let name = entry.name().to_string();
        let array = read_npy(&mut entry).map_err(|e| bad(format!("{name}: {e}")))?;
        let name = name.strip_suffix(".npy").unwrap_or(&name).to_string();
        if out.insert(name.clone(), array).is_some() {
            return Err(bad(format!("npz: {name} occurs twice")));
        }
    }
    Ok(out)
}

/// Reads an npz file.
pub fn load_npz(path: impl AsRef<Path>) -> Result<Named> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|e| Error::file(path, e.to_string()))?;
    read_npz(BufReader::new(file)).map(|arrays| (arrays, BTreeMap::new())).map_err(|e| at(path, e))
}

fn write_archive<'a>(
    path: &Path,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
    method: CompressionMethod,
) -> Result<()> {
    let path = &suffixed(path, "npz");
    let fail = |e: zip::result::ZipError| Error::file(path, e.to_string());
    let file = File::create(path).map_err(|e| Error::file(path, e.to_string()))?;
    let mut zip = ZipWriter::new(BufWriter::new(file));
    for (name, a) in arrays {
        let options = SimpleFileOptions::default().compression_method(method).large_file(a.nbytes() >= 1 << 31);
        zip.start_file(format!("{name}.npy"), options).map_err(fail)?;
        write_npy(&mut zip, a).map_err(|e| at(path, e))?;
    }
    let mut writer = zip.finish().map_err(fail)?;
    writer.flush().map_err(|e| Error::file(path, e.to_string()))
}

/// Writes named arrays as an npz archive (`mx.savez`); the suffix is added where it lacks.
pub fn savez<'a>(path: impl AsRef<Path>, arrays: impl IntoIterator<Item = (&'a str, &'a Array)>) -> Result<()> {
    write_archive(path.as_ref(), arrays, CompressionMethod::Stored)
}

/// [`savez`] with compression (`mx.savez_compressed`).
pub fn savez_compressed<'a>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
) -> Result<()> {
    write_archive(path.as_ref(), arrays, CompressionMethod::Deflated)
}
