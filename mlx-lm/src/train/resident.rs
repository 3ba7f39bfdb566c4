//! Several adapters of one resident model: loaded once, switched without touching the model's files.

use super::adapters::{Named, read_for};
use super::config::FineTune;
use crate::decoder::Decoder;
use crate::{Error, Result};
use mlx::nn::{Adapter, Module, ModuleExt, Path as Names};
use std::collections::BTreeMap;
use std::path::Path;

/// Adapters by name, of which one or none is on the model.
#[derive(Default)]
pub struct Adapters {
    sets: BTreeMap<String, Set>,
    active: Option<String>,
    /// The model's own weights where a full fine-tune has replaced them.
    base: Named,
}

enum Set {
    Layers(BTreeMap<String, Adapter>),
    /// Whole weights of a full fine-tune.
    Weights(Named),
}

impl Adapters {
    /// Reads the adapters of a directory under a name; nothing is switched.
    ///
    /// # Errors
    /// Those of [`load_adapters`](super::load_adapters).
    pub fn load(&mut self, decoder: &mut Decoder, name: &str, dir: &Path) -> Result<()> {
        let (config, mut arrays) = read_for(decoder, dir)?;
        if self.active.as_deref() == Some(name) {
            self.switch(decoder, None)?;
        }
        mlx::eval(arrays.values())?;
        let p = &config.lora_parameters;
        let mut layers = BTreeMap::new();
        if config.fine_tune_type == FineTune::Full {
            self.sets.insert(name.into(), Set::Weights(arrays));
            return Ok(());
        }
        decoder.layers_mut(&mut Names::new(), &mut |path, _| {
            let mut take = |leaf: &str| arrays.remove(&format!("{path}.{leaf}"));
            if let (Some(a), Some(b), m) = (take("lora_a"), take("lora_b"), take("m")) {
                layers.insert(
                    path.to_string(),
                    match m {
                        Some(m) => Adapter::dora(a, b, m, p.scale, p.dropout),
                        None => Adapter::lora(a, b, p.scale, p.dropout),
                    },
                );
            }
        });
        self.sets.insert(name.into(), Set::Layers(layers));
        Ok(())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }

    /// The adapter that is on the model.
    pub fn active(&self) -> Option<&str> {
        self.active.as_deref()
    }

    /// Puts an adapter on the model in place of the one that is there; `None` leaves the model bare.
    ///
    /// # Errors
    /// A name that was not loaded; then nothing changes.
    pub fn switch(&mut self, decoder: &mut Decoder, name: Option<&str>) -> Result<()> {
        let set = match name {
            None => None,
            Some(n) => Some(self.sets.get(n).ok_or_else(|| {
                let known: Vec<_> = self.sets.keys().collect();
                Error::Request(format!("adapter {n:?} is not loaded; there are {known:?}"))
            })?),
        };
        decoder.update(std::mem::take(&mut self.base), false)?;
        let layers = match set {
            Some(Set::Layers(layers)) => Some(layers),
            _ => None,
        };
        decoder.layers_mut(&mut Names::new(), &mut |path, mut layer| {
            layer.set_adapter(layers.and_then(|l| l.get(path)).cloned());
        });
        if let Some(Set::Weights(new)) = set {
            self.base = decoder.parameters_where(|n, _| new.contains_key(n)).into_iter().collect();
            decoder.update(new.clone(), false)?;
        }
        decoder.eval();
        self.active = name.map(Into::into);
        Ok(())
    }
}
