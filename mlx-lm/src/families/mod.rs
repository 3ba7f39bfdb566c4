//! Families: each file turns a config into a blueprint and names the quirks of its published checkpoints.
//!
//! No array maths here. A new family is a file with a `FAMILY` constant and a line in [`ALL`].

mod common;
mod gemma3;
mod llama;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use crate::blueprint::Blueprint;
use crate::config::Config;
use crate::weights::Tensors;
use crate::{Error, Result};

/// One family of models.
pub struct Family {
    /// `model_type` values that it serves.
    pub model_types: &'static [&'static str],
    pub blueprint: fn(&Config) -> Result<Blueprint>,
    /// Brings published names and layouts into the blueprint's.
    pub checkpoint: fn(&Config, &mut Tensors) -> Result<()>,
}

/// All families, by file name.
pub const ALL: &[Family] = &[gemma3::FAMILY, llama::FAMILY, qwen2::FAMILY, qwen3::FAMILY, qwen3_moe::FAMILY];

/// The family of a config.
pub fn find(config: &Config) -> Result<&'static Family> {
    let name = config.model_type();
    ALL.iter().find(|f| f.model_types.contains(&name)).ok_or_else(|| Error::Unsupported {
        what: "model_type",
        name: name.into(),
        message: format!("in {}; see docs/add-a-model.md", config.path().display()),
    })
}
