//! A model without its checkpoint: random weights in the shape of a config, for timing.

use super::{Decoder, Model, Registry};
use crate::config::{Config, QuantConfig};
use crate::families;
use crate::weights::{Leaves, RandomWeights};
use crate::{Error, Result};
use mlx::Dtype;
use mlx::nn::ModuleExt;

impl Model {
    /// A model of this config with random weights of `dtype`; `quant` packs them (in place of what the config says).
    ///
    /// # Errors
    /// Those of the config, and a part whose shapes only a checkpoint tells.
    pub fn random(config: Config, dtype: Dtype, quant: Option<QuantConfig>) -> Result<Model> {
        let (_, blueprint) = families::blueprint(&config)?;
        let quant = match quant {
            Some(q) => Some(q),
            None => config.quantization()?.mlx()?,
        };
        let leaves = Leaves::random(RandomWeights::new(dtype), quant);
        let decoder = mlx::catch(|| Decoder::build(blueprint, &Registry::builtin(), leaves)).map_err(Error::from)??;
        mlx::eval(decoder.parameters().iter().map(|(_, a)| a))?;
        Ok(Model { config, decoder })
    }
}
