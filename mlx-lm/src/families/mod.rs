//! Families: each file turns a config into a blueprint and names the quirks of its published checkpoints.
//!
//! No array maths here. A new family is a file with a `FAMILY` constant and a line in the list below.

mod common;

/// What a family is written with.
mod prelude {
    pub use super::Family;
    pub use super::common::*;
    pub use crate::blueprint::*;
    pub use crate::config::{Config, RopeConfig, RopeKind, Section};
    pub use crate::weights::{Tensors, foreign};
    pub use crate::{Error, Result};
    pub use std::rc::Rc;
}

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
    afm7,
    afmoe,
    apertus,
    baichuan_m1,
    bailing_hybrid,
    bailing_moe,
    bailing_moe_linear,
    bailing_moe_v3,
    bitnet,
    cohere,
    cohere2,
    composed,
    dbrx,
    deepseek,
    deepseek_v2,
    deepseek_v3,
    deepseek_v32,
    deepseek_v41,
    delta_net,
    dots1,
    ernie4_5,
    ernie4_5_moe,
    exaone,
    exaone4,
    exaone_moe,
    falcon_h1,
    gated_deltanet,
    gear,
    gemma,
    gemma2,
    gemma3,
    gemma3n,
    gemma4,
    gla,
    glm,
    glm4,
    glm4_moe,
    gpt2,
    gpt_bigcode,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    granitemoe,
    granitemoehybrid,
    gsa,
    helium,
    hunyuan,
    hunyuan_v1_dense,
    internlm2,
    internlm3,
    iquestloopcoder,
    jamba,
    kda,
    kimi_k3,
    kimi_linear,
    klear,
    laguna,
    lfm2,
    lille_130m,
    llama,
    llama4,
    llama4_text,
    longcat_flash,
    mamba,
    mamba2,
    mellum,
    mimo,
    mimo_v2_flash,
    minicpm,
    minicpm3,
    minimax,
    minimax_m3,
    ministral3,
    mistral3,
    mistral4,
    mixtral,
    mla,
    moba,
    muse_glimmer,
    muse_spark,
    nanbeige,
    nanochat,
    nemotron,
    nemotron_h,
    nemotron_nas,
    nsa,
    olmo,
    olmo2,
    olmo3,
    olmo_hybrid,
    olmoe,
    openelm,
    phi,
    phi3,
    phi3small,
    phimoe,
    phixtral,
    plamo,
    plamo2,
    plamo3,
    prism_hadamard_qwen35,
    qwen,
    qwen2,
    qwen2_moe,
    qwen2_vl,
    qwen3,
    qwen3_moe,
    qwen3_next,
    qwen3_vl,
    qwen3_vl_moe,
    recurrent_gemma,
    retnet,
    rwkv7,
    seed_oss,
    spark2_5,
    stablelm,
    starcoder2,
    step3p5,
    talkie,
    telechat3,
    youtu_llm,
}

/// The blueprint of a config.
pub fn blueprint(config: &Config) -> Result<(&'static Family, Blueprint)> {
    let family = find(config)?;
    let mut blueprint = (family.blueprint)(config)?;
    if config.raw().contains_key("text_config") && !blueprint.layers_path.contains("language_model") {
        blueprint = blueprint.wrapped();
    }
    Ok((family, blueprint))
}

/// The family of a config.
pub fn find(config: &Config) -> Result<&'static Family> {
    if composed::is_uniform(config) {
        return Ok(&composed::FAMILY);
    }
    let name = config.model_type();
    ALL.iter().find(|f| f.model_types.contains(&name)).ok_or_else(|| Error::Unsupported {
        what: "model_type",
        name: name.into(),
        message: format!("in {}; see docs/add-a-model.md", config.path().display()),
    })
}
