//! Checkpoints of a run: adapter, optimizer state, random key and position in the data, so that a resumed run equals the
//! straight one bit for bit.

use super::adapters::save_arrays;
use crate::{Error, Result};
use mlx::Array;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything besides the trained parameters.
pub(super) struct Progress {
    pub iteration: usize,
    pub trained_tokens: u64,
    pub optimizer: BTreeMap<String, Array>,
    pub key: Array,
}

fn state_path(adapter: &Path) -> PathBuf {
    adapter.with_extension("state.safetensors")
}

impl Progress {
    /// Writes the state beside an adapter file.
    pub fn save(&self, adapter: &Path) -> Result<()> {
        let mut arrays: BTreeMap<String, Array> =
            self.optimizer.iter().map(|(k, a)| (format!("optimizer.{k}"), a.clone())).collect();
        arrays.insert("random.key".into(), self.key.clone());
        arrays.insert("iteration".into(), Array::from(self.iteration as i64));
        arrays.insert("trained_tokens".into(), Array::from(self.trained_tokens as i64));
        save_arrays(&state_path(adapter), &arrays)
    }

    /// The state beside an adapter file; `None` when there is none (an adapter from elsewhere).
    pub fn load(adapter: &Path) -> Result<Option<Progress>> {
        let path = state_path(adapter);
        if !path.exists() {
            return Ok(None);
        }
        let mut arrays: BTreeMap<String, Array> = mlx::io::load_safetensors(&path)?.0.into_iter().collect();
        let mut take = |name: &str| arrays.remove(name).ok_or_else(|| Error::file(&path, format!("has no {name}")));
        let iteration = take("iteration")?.item::<i64>()?.max(0) as usize;
        let trained_tokens = take("trained_tokens")?.item::<i64>()?.max(0) as u64;
        let key = take("random.key")?;
        let optimizer =
            arrays.into_iter().filter_map(|(k, a)| Some((k.strip_prefix("optimizer.")?.to_string(), a))).collect();
        Ok(Some(Progress { iteration, trained_tokens, optimizer, key }))
    }
}
