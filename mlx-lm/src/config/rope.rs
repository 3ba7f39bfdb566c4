//! Rotary position embeddings: `rope_theta`, `rope_scaling` (transformers 4) and `rope_parameters` (5, possibly one
//! object per layer type) read into one [`RopeConfig`]. `type` and `rope_type` are both understood everywhere.
use serde_json::{Map, Value};

use super::section::Section;
use crate::Result;

/// What a family needs to build its rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    pub kind: RopeKind,
    /// Base of the frequencies; `None`: the family's default (10000 in most).
    pub theta: Option<f64>,
    /// Bases by layer, where `rope_theta` is a list (step3p5); `theta` is `None` then.
    pub layer_thetas: Option<Vec<f64>>,
    /// Share of the head dimension that is rotated (`partial_rotary_factor`, `rotary_pct`).
    pub partial_rotary_factor: Option<f64>,
    /// Length the model was trained for.
    pub max_position_embeddings: Option<usize>,
    /// All keys of the merged object, for a family's own ones (`llama_4_scaling_beta`, `mrope_section`).
    pub raw: Section,
}

/// The kinds of frequency scaling, named as in configs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeKind {
    Default,
    /// Positions divided by `factor`.
    Linear {
        factor: f64,
    },
    /// NTK: the base grows with the length of the call.
    Dynamic {
        factor: f64,
    },
    /// NTK with a fixed `alpha` (hunyuan): base × alpha^(dims / (dims - 2)).
    NtkAlpha {
        alpha: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max: usize,
    },
    /// `yarn`, `deepseek_yarn`, `telechat3-yarn`.
    Yarn(Yarn),
    /// `longrope`, `su`: one factor per frequency, one list for short contexts and one for long ones.
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
        original_max: usize,
        short_mscale: Option<f64>,
        long_mscale: Option<f64>,
    },
    /// Part of the head rotated by frequencies of the whole head (gemma4).
    Proportional {
        factor: f64,
    },
    /// Multimodal sections; plain for text.
    Mrope {
        section: Vec<usize>,
        interleaved: bool,
    },
}

/// YaRN's parameters (Peng et al. 2023).
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub original_max: usize,
    pub beta_fast: f64,
    pub beta_slow: f64,
    pub mscale: f64,
    pub mscale_all_dim: f64,
    pub attention_factor: Option<f64>,
    /// Correction range rounded to whole dimensions (the default).
    pub truncate: bool,
}

impl RopeConfig {
    /// The base, or the family's default.
    pub fn theta_or(&self, default: f64) -> f64 {
        self.theta.unwrap_or(default)
    }
}

const OBJECTS: [&str; 2] = ["rope_scaling", "rope_parameters"];

/// Merges the objects (`rope_parameters` wins) and picks `layer_type` where they nest; `trained` is the length that a
/// family read itself for longrope.
pub(super) fn read(config: &Section, layer_type: Option<&str>, trained: Option<usize>) -> Result<RopeConfig> {
    let mut map = Map::new();
    let (mut prefix, mut nested, mut chosen) = ("rope_parameters.".to_owned(), false, false);
    for key in OBJECTS {
        let Some(object) = config.opt_sub(key)? else { continue };
        prefix = format!("{}.", config.name(key));
        for (name, value) in object.map() {
            match value {
                Value::Object(inner) if !inner.contains_key("__float__") => {
                    nested = true;
                    if Some(name.as_str()) == layer_type {
                        chosen = true;
                        prefix = format!("{prefix}{name}.");
                        map.extend(inner.clone());
                    }
                }
                Value::Null => {}
                other => {
                    map.insert(name.clone(), other.clone());
                }
            }
        }
    }
    // gemma3: sliding layers have their own base and no scaling
    let local = config.opt_f64("rope_local_base_freq")?;
    let is_local = layer_type == Some("sliding_attention") && local.is_some() && !chosen;
    if is_local {
        map.clear();
    }
    if nested && !chosen && layer_type.is_none() && !map.contains_key("rope_theta") {
        // one question, several answers: take the full-attention entry, the one all such configs have
        for key in OBJECTS {
            if let Some(full) = config.opt_sub(key)?.and_then(|o| o.opt_sub("full_attention").transpose()) {
                map.extend(full?.map().clone());
            }
        }
    }
    let raw = Section::new(prefix, map);
    let list = |s: &Section| {
        if s.get("rope_theta").is_some_and(Value::is_array) { s.opt_f64s("rope_theta") } else { Ok(None) }
    };
    let layer_thetas = match list(&raw)? {
        Some(thetas) => Some(thetas),
        None => list(config)?,
    };
    let theta = match (&layer_thetas, is_local) {
        (Some(_), _) => None,
        (None, _) if raw.has("rope_theta") => raw.opt_f64("rope_theta")?,
        (None, true) => local,
        (None, false) => first_f64(config, &["rope_theta", "rotary_emb_base", "rope_base"])?,
    };
    for theta in theta.iter().chain(layer_thetas.iter().flatten()) {
        positive(config, "rope_theta", *theta)?;
    }
    let partial_rotary_factor = match raw.opt_f64("partial_rotary_factor")? {
        Some(factor) => Some(factor),
        None => first_f64(config, &["partial_rotary_factor", "rotary_pct", "rope_pct"])?,
    };
    Ok(RopeConfig {
        kind: kind(&raw, config, trained)?,
        theta,
        layer_thetas,
        partial_rotary_factor,
        max_position_embeddings: config.opt_usize("max_position_embeddings")?,
        raw,
    })
}

fn first_f64(s: &Section, keys: &[&str]) -> Result<Option<f64>> {
    for key in keys {
        if let Some(v) = s.opt_f64(key)? {
            return Ok(Some(v));
        }
    }
    Ok(None)
}

fn kind(s: &Section, config: &Section, trained: Option<usize>) -> Result<RopeKind> {
    // `type` first, as Python; "default" there does not hide a real `rope_type`
    let spelled = |key| s.opt_str(key).map(|v| v.filter(|v| *v != "default"));
    let name = match spelled("type")? {
        Some(name) => name,
        None => spelled("rope_type")?.unwrap_or("default"),
    };
    let factor = || positive(s, "factor", s.f64("factor")?);
    let original = |default: Option<usize>| -> Result<usize> {
        let key = "original_max_position_embeddings";
        let found = match (s.opt_usize(key)?, config.opt_usize(key)?) {
            (Some(n), _) | (None, Some(n)) => Some(n),
            (None, None) => default,
        };
        match found {
            Some(0) => Err(s.error(key, "is 0")),
            Some(n) => Ok(n),
            None => Err(s.error(key, "missing")),
        }
    };
    Ok(match name {
        "default" if s.has("mrope_section") => mrope(s)?,
        "default" => RopeKind::Default,
        "mrope" => mrope(s)?,
        "linear" => RopeKind::Linear { factor: factor()? },
        "dynamic" if s.has("alpha") => RopeKind::NtkAlpha { alpha: positive(s, "alpha", s.f64("alpha")?)? },
        "dynamic" => RopeKind::Dynamic { factor: factor()? },
        "llama3" => RopeKind::Llama3 {
            factor: factor()?,
            low_freq_factor: positive(s, "low_freq_factor", s.f64_or("low_freq_factor", 1.0)?)?,
            high_freq_factor: positive(s, "high_freq_factor", s.f64_or("high_freq_factor", 4.0)?)?,
            original_max: original(Some(8192))?,
        },
        "yarn" | "deepseek_yarn" | "telechat3-yarn" => RopeKind::Yarn(Yarn {
            factor: factor()?,
            original_max: original(Some(4096))?,
            beta_fast: s.f64_or("beta_fast", 32.0)?,
            beta_slow: s.f64_or("beta_slow", 1.0)?,
            mscale: s.f64_or("mscale", 1.0)?,
            mscale_all_dim: s.f64_or("mscale_all_dim", 0.0)?,
            attention_factor: s.opt_f64("attention_factor")?,
            truncate: s.flag_or("truncate", true)?,
        }),
        "longrope" | "su" => RopeKind::LongRope {
            // Python only ever uses the long list; a missing short one is no error
            short: match s.opt_f64s("short_factor")? {
                Some(list) => list,
                None => s.f64s("long_factor")?,
            },
            long: s.f64s("long_factor")?,
            original_max: match trained {
                Some(n) => {
                    Some(n).filter(|n| *n > 0).ok_or_else(|| s.error("original_max_position_embeddings", "is 0"))?
                }
                None => original(None)?,
            },
            short_mscale: s.opt_f64("short_mscale")?,
            long_mscale: s.opt_f64("long_mscale")?,
        },
        "proportional" => RopeKind::Proportional { factor: s.f64_or("factor", 1.0)? },
        other => {
            let known = "default, linear, dynamic, llama3, yarn, deepseek_yarn, telechat3-yarn, longrope, su, proportional, mrope";
            return Err(s.error("rope_type", format!("unknown kind {other:?}; known: {known}")));
        }
    })
}

fn mrope(s: &Section) -> Result<RopeKind> {
    let section = s.opt_usizes("mrope_section")?.unwrap_or_default();
    Ok(RopeKind::Mrope { section, interleaved: s.flag("mrope_interleaved")? })
}

fn positive(s: &Section, key: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(s.error(key, format!("{value} is not a positive number")))
}
