//! From a model directory or GGUF file to a decoder.

use super::{Decoder, Registry};
use crate::config::{Config, QuantConfig, Quantization};
use crate::families;
use crate::weights::{Checkpoint, Jang, Leaves, Tensors, foreign, jangtq};
use crate::{Error, Result};
use std::path::Path;

/// How to load.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Called with (done, total) layers.
    pub progress: Option<&'a mut dyn FnMut(usize, usize)>,
    /// Compute in this type: stored floats are converted while loading. `None` keeps the checkpoint's.
    pub dtype: Option<mlx::Dtype>,
    /// Parts beyond this crate's.
    pub registry: Option<Registry>,
}

/// A decoder with the config it was made from.
pub struct Model {
    pub config: Config,
    pub decoder: Decoder,
}

impl Model {
    /// Loads a model directory (safetensors or one GGUF) or a `.gguf` file.
    ///
    /// # Errors
    /// Name the file, key or tensor: an unknown `model_type`, a missing or extra tensor, a wrong shape, a broken file.
    pub fn load(path: impl AsRef<Path>) -> Result<Model> {
        Self::load_with(path, LoadOptions::default())
    }

    /// As [`load`](Self::load), with options.
    pub fn load_with(path: impl AsRef<Path>, options: LoadOptions<'_>) -> Result<Model> {
        let checkpoint = Checkpoint::open(path)?;
        let config = checkpoint.config()?;
        Self::from_checkpoint(config, &checkpoint, options)
    }

    /// From an open checkpoint and its config.
    pub fn from_checkpoint(config: Config, checkpoint: &Checkpoint, options: LoadOptions<'_>) -> Result<Model> {
        Self::build(config, Tensors::open(checkpoint)?, options)
    }

    /// The model with stand-ins for its weights: it builds exactly where loading would, and reads no weight. Shapes and
    /// types of everything it computes are right; values must not be asked for.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn outline(config: Config, checkpoint: &Checkpoint, options: LoadOptions<'_>) -> Result<Model> {
        let mut tensors = Tensors::open(checkpoint)?;
        tensors.outline();
        Self::build(config, tensors, options)
    }

    fn build(config: Config, mut tensors: Tensors, options: LoadOptions<'_>) -> Result<Model> {
        let (family, blueprint) = families::blueprint(&config)?;
        let (quant, foreign) = match config.quantization()? {
            Quantization::Foreign(f) if f.is_known() => (f.mlx().map(QuantConfig::new), Some(f)),
            other => (other.mlx()?, None),
        };
        tensors.cast_floats(options.dtype);
        let registry = options.registry.unwrap_or_else(Registry::builtin);
        let mut silent = |_: usize, _: usize| {};
        let progress = options.progress.unwrap_or(&mut silent);
        // shapes that no op accepts become errors, not crashes
        let decoder = mlx::catch(|| -> Result<Decoder> {
            jangtq::place_all(&mut tensors)?;
            if let Some(f) = &foreign {
                foreign::convert(f, &mut tensors)?;
            }
            (family.checkpoint)(&config, &mut tensors)?;
            let jang = foreign.as_ref().and_then(Jang::of);
            Decoder::build_with(blueprint, &registry, Leaves::with_jang(tensors, quant, jang), progress)
        })
        .map_err(Error::from)??;
        Ok(Model { config, decoder })
    }
}
