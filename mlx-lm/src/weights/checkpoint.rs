//! [`Checkpoint`]: all tensors of a model, whatever files hold them.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::safetensors::{File, TensorInfo};
use super::{Bytes, gguf};
use crate::config::{Config, read_json};
use crate::{Error, Result};

pub use super::gguf::options::GgufOptions;

/// What kind of files a checkpoint is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Safetensors,
    Gguf,
}

/// A model's tensors by name. Opening reads headers only; [`Checkpoint::bytes`] gives bytes that keep their map alive.
///
/// A GGUF file shows Hugging Face names, MLX's packed form (`.weight`, `.scales`, `.biases`) and a config.
/// Clones share everything.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    infos: Arc<BTreeMap<String, TensorInfo>>,
    store: Arc<Store>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
enum Store {
    Safetensors(Vec<File>, BTreeMap<String, usize>),
    Gguf(gguf::model::GgufModel),
}

impl Checkpoint {
    /// Opens a model directory (`model*.safetensors`, with or without index, or one GGUF), or a single
    /// `.safetensors` or `.gguf` file.
    ///
    /// Errors name the file: a shard that the index lists is missing, a tensor stands in two shards, a tensor of the
    /// index is in no shard, a header is broken.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        Checkpoint::open_with(path, GgufOptions::default())
    }

    /// As [`Checkpoint::open`], with other types for what a GGUF converts to.
    pub fn open_with(path: impl AsRef<Path>, options: GgufOptions) -> Result<Checkpoint> {
        let path = path.as_ref();
        let meta = fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !meta.is_dir() {
            return match extension(path).as_deref() {
                Some("gguf") => Checkpoint::gguf(path, options),
                Some("safetensors") => Checkpoint::safetensors(path, vec![path.into()]),
                _ => Err(Error::file(path, "is neither a directory, a .safetensors nor a .gguf file")),
            };
        }
        let index = path.join("model.safetensors.index.json");
        if index.is_file() {
            return Checkpoint::indexed(path, &index);
        }
        let files = list(path)?;
        let shards: Vec<PathBuf> = files.iter().filter(|f| is_weights(f)).cloned().collect();
        if !shards.is_empty() {
            complete(path, &shards)?;
            return Checkpoint::safetensors(path, shards);
        }
        let ggufs: Vec<&PathBuf> = files.iter().filter(|f| extension(f).as_deref() == Some("gguf")).collect();
        match ggufs[..] {
            [] => Err(Error::file(path, "holds neither model*.safetensors nor a .gguf file")),
            [one] => Checkpoint::gguf(one, options),
            [first, ..] if gguf::model::first_part(first) => Checkpoint::gguf(first, options),
            _ => Err(Error::file(path, format!("holds {} .gguf files: name one of them", ggufs.len()))),
        }
    }

    fn indexed(dir: &Path, index: &Path) -> Result<Checkpoint> {
        let map = read_json(index)?;
        let bad = |message: String| Error::file(index, message);
        let Some(Value::Object(weight_map)) = map.get("weight_map") else {
            return Err(bad("weight_map: missing or not an object".into()));
        };
        let mut names: Vec<&str> = vec![];
        for (tensor, file) in weight_map {
            let file = file.as_str().ok_or_else(|| bad(format!("weight_map.{tensor}: not a string")))?;
            if Path::new(file).components().count() != 1 || file.contains(['/', '\\']) || file == ".." {
                return Err(bad(format!("weight_map.{tensor}: {file:?} is not a plain file name")));
            }
            names.push(file);
        }
        names.sort_unstable();
        names.dedup();
        let files: Vec<PathBuf> = names.iter().map(|n| dir.join(n)).collect();
        if let Some(missing) = files.iter().find(|f| !f.is_file()) {
            return Err(Error::file(missing, format!("missing: a shard listed in {}", index.display())));
        }
        let checkpoint = Checkpoint::safetensors(dir, files)?;
        for (tensor, file) in weight_map {
            let file = file.as_str().unwrap_or_default();
            match checkpoint.info(tensor) {
                Some(info) if *info.file == *dir.join(file) => {}
                Some(info) => {
                    return Err(Error::tensor(
                        tensor,
                        format!("the index puts it in {file}, it is in {}", info.file.display()),
                    ));
                }
                None => return Err(Error::tensor(tensor, format!("the index puts it in {file}, where it is not"))),
            }
        }
        Ok(checkpoint)
    }

    fn safetensors(path: &Path, paths: Vec<PathBuf>) -> Result<Checkpoint> {
        let mut infos: BTreeMap<String, TensorInfo> = BTreeMap::new();
        let (mut files, mut owner, mut metadata) = (vec![], BTreeMap::new(), BTreeMap::new());
        for shard in paths {
            let file = File::open(&shard)?;
            for info in &file.header().tensors {
                if let Some(first) = infos.insert(info.name.clone(), info.clone()) {
                    let both = format!("is in {} and in {}", first.file.display(), shard.display());
                    return Err(Error::tensor(&info.name, both));
                }
                owner.insert(info.name.clone(), files.len());
            }
            metadata.extend(file.header().metadata.clone());
            files.push(file);
        }
        let store = Arc::new(Store::Safetensors(files, owner));
        Ok(Checkpoint { path: path.into(), infos: infos.into(), store, metadata })
    }

    fn gguf(path: &Path, options: GgufOptions) -> Result<Checkpoint> {
        let model = gguf::model::GgufModel::open(path, options)?;
        let infos: BTreeMap<_, _> = model.infos().map(|i| (i.name.clone(), i.clone())).collect();
        let store = Arc::new(Store::Gguf(model));
        Ok(Checkpoint { path: path.into(), infos: infos.into(), store, metadata: BTreeMap::new() })
    }

    /// The directory or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn format(&self) -> Format {
        match *self.store {
            Store::Safetensors(..) => Format::Safetensors,
            Store::Gguf(_) => Format::Gguf,
        }
    }
    /// The weight files.
    pub fn files(&self) -> Vec<Arc<Path>> {
        match &*self.store {
            Store::Safetensors(files, _) => files.iter().map(|f| f.path().clone()).collect(),
            Store::Gguf(model) => model.parts().iter().map(|p| p.path.clone()).collect(),
        }
    }
    /// Free-form metadata of the safetensors headers (`format: mlx`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
    /// The GGUF behind this checkpoint.
    pub fn gguf_model(&self) -> Option<&gguf::model::GgufModel> {
        match &*self.store {
            Store::Gguf(model) => Some(model),
            Store::Safetensors(..) => None,
        }
    }
    /// The model's config: `config.json` beside the weights, or what a GGUF's metadata says.
    pub fn config(&self) -> Result<Config> {
        match &*self.store {
            Store::Gguf(model) => Config::from_json(model.config().clone(), &self.path),
            Store::Safetensors(..) if self.path.is_dir() => Config::from_dir(&self.path),
            Store::Safetensors(..) => Config::from_dir(self.path.parent().unwrap_or(Path::new("."))),
        }
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.infos.keys().map(String::as_str)
    }
    pub fn infos(&self) -> impl Iterator<Item = &TensorInfo> {
        self.infos.values()
    }
    pub fn len(&self) -> usize {
        self.infos.len()
    }
    pub fn is_empty(&self) -> bool {
        self.infos.is_empty()
    }
    pub fn contains(&self, name: &str) -> bool {
        self.infos.contains_key(name)
    }
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.infos.get(name)
    }
    /// As [`Checkpoint::info`], an error when there is no such tensor.
    pub fn need(&self, name: &str) -> Result<&TensorInfo> {
        self.info(name).ok_or_else(|| Error::tensor(name, format!("missing in {}", self.path.display())))
    }
    /// The bytes of a tensor as its [`TensorInfo`] says: a slice of the map, or converted for some GGUF tensors.
    pub fn bytes(&self, name: &str) -> Result<Bytes> {
        self.need(name)?;
        let found = match &*self.store {
            Store::Safetensors(files, owner) => owner.get(name).and_then(|&i| files.get(i)?.shared(name)),
            Store::Gguf(model) => Some(model.bytes(name)?),
        };
        found.ok_or_else(|| Error::tensor(name, "its bytes are not in the file"))
    }
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_string_lossy().to_lowercase())
}

/// Python's glob `model*.safetensors`.
fn is_weights(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("model") && name.ends_with(".safetensors")
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        files.push(entry.map_err(|e| Error::io(dir, e))?.path());
    }
    files.sort();
    Ok(files)
}

/// Without an index, names `…-00002-of-00005.safetensors` still tell when a shard is missing.
fn complete(dir: &Path, shards: &[PathBuf]) -> Result<()> {
    for shard in shards {
        let name = shard.file_name().unwrap_or_default().to_string_lossy();
        let Some((stem, n)) = name.strip_suffix(".safetensors").and_then(|s| s.rsplit_once("-of-")) else { continue };
        let (Some((stem, i)), Ok(count)) = (stem.rsplit_once('-'), n.parse::<usize>()) else { continue };
        if i.parse::<usize>().is_err() || count > 100_000 {
            continue;
        }
        for k in 1..=count {
            let want = dir.join(format!("{stem}-{k:0width$}-of-{n}.safetensors", width = i.len()));
            if !shards.contains(&want) {
                return Err(Error::file(&want, format!("missing: shard {k} of {count}")));
            }
        }
    }
    Ok(())
}
