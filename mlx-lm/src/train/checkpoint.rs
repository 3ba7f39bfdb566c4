//! Checkpoints of a run: adapter, optimizer state, random key and position in the data, so that a resumed run equals the
//! straight one bit for bit.

use super::adapters::save_arrays;
use crate::{Error, Result};
use mlx::Array;
use mlx::nn::Grads;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything besides the trained parameters.
pub(super) struct Progress {
    pub iteration: usize,
    pub trained_tokens: u64,
    /// A number for data and batching: the position means nothing in others.
    pub data: u64,
    pub optimizer: BTreeMap<String, Array>,
    pub pending: Option<Grads>,
    pub key: Array,
}

fn state_path(adapter: &Path) -> PathBuf {
    adapter.with_extension("state.safetensors")
}

/// The iteration in an adapter file's metadata.
const ITERATION: &str = "iteration";

impl Progress {
    /// Writes adapter and state. A kill between the two leaves files of two iterations, which [`load`](Self::load) sees;
    /// an adapter file by itself is always whole.
    pub fn save(&self, adapter: &Path, parameters: &BTreeMap<String, Array>) -> Result<()> {
        let mut arrays: BTreeMap<String, Array> =
            self.optimizer.iter().map(|(k, a)| (format!("optimizer.{k}"), a.clone())).collect();
        arrays.extend(self.pending.iter().flatten().map(|(k, a)| (format!("pending.{k}"), a.clone())));
        arrays.insert("random.key".into(), self.key.clone());
        arrays.insert("iteration".into(), Array::from(self.iteration as i64));
        arrays.insert("trained_tokens".into(), Array::from(self.trained_tokens as i64));
        arrays.insert("data".into(), Array::from(self.data as i64));
        save_arrays(&state_path(adapter), &arrays, BTreeMap::new())?;
        save_arrays(adapter, parameters, BTreeMap::from([(ITERATION.into(), self.iteration.to_string())]))
    }

    /// An adapter file's parameters, and the state beside it; without state when there is none (an adapter from elsewhere).
    ///
    /// # Errors
    /// A missing or broken file, a state of another iteration.
    pub fn load(adapter: &Path) -> Result<(BTreeMap<String, Array>, Option<Progress>)> {
        if !adapter.exists() {
            return Err(Error::file(adapter, "missing"));
        }
        let (parameters, metadata) = mlx::io::load_safetensors(adapter)?;
        let parameters = parameters.into_iter().collect();
        let path = state_path(adapter);
        if !path.exists() {
            return Ok((parameters, None));
        }
        let mut arrays: BTreeMap<String, Array> = mlx::io::load_safetensors(&path)?.0.into_iter().collect();
        let mut take = |name: &str| arrays.remove(name).ok_or_else(|| Error::file(&path, format!("has no {name}")));
        let iteration = take("iteration")?.item::<i64>()?.max(0) as usize;
        if metadata.get(ITERATION).is_none_or(|i| *i != iteration.to_string()) {
            let of = metadata.get(ITERATION).map_or("unknown", String::as_str);
            return Err(Error::file(
                adapter,
                format!(
                    "is of iteration {of}, the state beside it of {iteration}: a save was interrupted or the file \
                     replaced; resume from a numbered checkpoint, or remove {} to start anew from these weights",
                    path.display()
                ),
            ));
        }
        let trained_tokens = take("trained_tokens")?.item::<i64>()?.max(0) as u64;
        let data = take("data")?.item::<i64>()? as u64;
        let key = take("random.key")?;
        let part = |prefix: &str| -> BTreeMap<String, Array> {
            arrays.iter().filter_map(|(k, a)| Some((k.strip_prefix(prefix)?.to_string(), a.clone()))).collect()
        };
        let pending = Some(part("pending.")).filter(|p| !p.is_empty());
        let optimizer = part("optimizer.");
        Ok((parameters, Some(Progress { iteration, trained_tokens, data, optimizer, pending, key })))
    }
}
