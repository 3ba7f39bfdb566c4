//! Families: each file turns a config into a blueprint and names the quirks of its published checkpoints.
//!
//! No array maths here. A new family is a file with a `FAMILY` constant and a line in the list below.

mod common;

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

/// Declares the files and the table of all families.
macro_rules! families {
    ($($name:ident,)*) => {
        $(mod $name;)*
        /// All families, by file name.
        pub const ALL: &[Family] = &[$($name::FAMILY,)*];
    };
}

families! {
    apertus,
    cohere,
    deepseek_v3,
    ernie4_5,
    exaone,
    gemma3,
    gemma4,
    glm,
    gpt2,
    gpt_bigcode,
    gpt_neox,
    gptj,
    granite,
    helium,
    hunyuan_v1_dense,
    internlm2,
    internlm3,
    lille_130m,
    llama,
    mimo,
    minicpm,
    nanochat,
    nemotron,
    olmo,
    openelm,
    phi,
    plamo,
    qwen,
    qwen2,
    qwen3,
    qwen3_moe,
    qwen3_next,
    seed_oss,
    stablelm,
    starcoder2,
    telechat3,
}

/// The family of a config.
pub fn find(config: &Config) -> Result<&'static Family> {
    let name = config.model_type();
    ALL.iter().find(|f| f.model_types.contains(&name)).ok_or_else(|| Error::Unsupported {
        what: "model_type",
        name: name.into(),
        message: format!("in {}; see docs/add-a-model.md", config.path().display()),
    })
}
