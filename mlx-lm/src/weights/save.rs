//! Writing checkpoints: safetensors shards of bounded size and their index, each file complete or absent.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Dtype;
use crate::{Error, Result};

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Row major, little endian.
    pub bytes: Cow<'a, [u8]>,
    /// Weights this tensor stands for, for `total_parameters`: packed tensors count their unpacked elements,
    /// scales and biases of packed ones 0. `None`: its own elements.
    pub parameters: Option<u64>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    pub files: Vec<PathBuf>,
    pub total_size: u64,
    pub total_parameters: u64,
}

/// Python's limit for one shard, in bytes.
pub const MAX_SHARD_BYTES: u64 = 5 << 30;

/// Writes `model-0000i-of-0000n.safetensors` (or `model.safetensors`) and `model.safetensors.index.json`.
///
/// Tensors are written in the order given, one shard in memory at a time; a shard is closed before it would exceed
/// `max_shard_bytes`. Every file is written to a temporary name, synced and renamed, the index last. Shards of an
/// earlier save that these do not replace are left in place: write to an empty directory.
pub fn save_shards<'a, I>(dir: impl AsRef<Path>, tensors: I, max_shard_bytes: u64) -> Result<Saved>
where
    I: IntoIterator<Item = Result<Tensor<'a>>>,
{
    let dir = dir.as_ref();
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let mut state = Shards { dir, parts: vec![], names: BTreeMap::new(), total_size: 0, total_parameters: 0 };
    let mut open: Vec<Tensor> = vec![];
    let mut open_bytes = 0u64;
    for tensor in tensors {
        let tensor = tensor?;
        let elements = tensor.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        let want = elements.and_then(|n| n.checked_mul(tensor.dtype.size()));
        if want != Some(tensor.bytes.len()) {
            let message = format!("{} {:?} does not fit {} bytes", tensor.dtype, tensor.shape, tensor.bytes.len());
            return Err(Error::tensor(tensor.name, message));
        }
        if state.names.insert(tensor.name.clone(), usize::MAX).is_some() {
            return Err(Error::tensor(tensor.name, "written twice"));
        }
        state.total_size += tensor.bytes.len() as u64;
        state.total_parameters += tensor.parameters.unwrap_or(elements.unwrap_or(0) as u64);
        if !open.is_empty() && open_bytes + tensor.bytes.len() as u64 > max_shard_bytes {
            state.close(std::mem::take(&mut open))?;
            open_bytes = 0;
        }
        open_bytes += tensor.bytes.len() as u64;
        open.push(tensor);
    }
    state.close(open)?;
    state.finish()
}

struct Shards<'p> {
    dir: &'p Path,
    /// Shards under their temporary names: the count is part of the final name.
    parts: Vec<PathBuf>,
    names: BTreeMap<String, usize>,
    total_size: u64,
    total_parameters: u64,
}

impl Shards<'_> {
    fn close(&mut self, tensors: Vec<Tensor>) -> Result<()> {
        let path = self.dir.join(format!(".model-{:05}.{}.tmp", self.parts.len() + 1, std::process::id()));
        for t in &tensors {
            self.names.insert(t.name.clone(), self.parts.len());
        }
        self.parts.push(path.clone());
        let write = || -> io::Result<()> {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
            write_file(&mut file, &tensors)?;
            file.into_inner()?.sync_all()
        };
        write().map_err(|e| Error::io(&path, e))
    }

    fn finish(self) -> Result<Saved> {
        let parts = self.parts.clone();
        let n = parts.len();
        let name = |i: usize| match n {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let mut files = vec![];
        for (i, part) in parts.iter().enumerate() {
            let path = self.dir.join(name(i));
            fs::rename(part, &path).map_err(|e| Error::io(&path, e))?;
            files.push(path);
        }
        let map: Map<String, Value> = self.names.iter().map(|(k, i)| (k.clone(), name(*i).into())).collect();
        let index = json!({
            "metadata": {"total_size": self.total_size, "total_parameters": self.total_parameters},
            "weight_map": map,
        });
        let text = serde_json::to_vec_pretty(&index).map_err(|e| Error::file(self.dir, e.to_string()))?;
        write_atomic(&self.dir.join("model.safetensors.index.json"), &text)?;
        Ok(Saved { files, total_size: self.total_size, total_parameters: self.total_parameters })
    }
}

impl Drop for Shards<'_> {
    /// A save that failed leaves no temporary files.
    fn drop(&mut self) {
        for part in &self.parts {
            let _ = fs::remove_file(part);
        }
    }
}

fn write_file(out: &mut impl Write, tensors: &[Tensor]) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "mlx"}));
    let mut offset = 0u64;
    for t in tensors {
        let end = offset + t.bytes.len() as u64;
        header
            .insert(t.name.clone(), json!({"dtype": t.dtype.name(), "shape": t.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut json = serde_json::to_vec(&header)?;
    // the data starts at a multiple of 8
    json.resize(json.len().next_multiple_of(8), b' ');
    out.write_all(&(json.len() as u64).to_le_bytes())?;
    out.write_all(&json)?;
    tensors.iter().try_for_each(|t| out.write_all(&t.bytes))
}

/// Writes a file completely or not at all: temporary name in the same directory, sync, rename.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Error::io(path, e)
    })
}
