//! Which layer gets how many bits.

use super::quirks::own_form;
use crate::decoder::Model;
use crate::{Error, Result};
use mlx::nn::{self, LayerMut};
use mlx::{Quant, QuantMode};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::path::Path;

/// How a model is quantised.
#[derive(Debug, Clone, PartialEq)]
pub enum Recipe {
    /// One form for all layers, but for those that the family keeps at more bits (routers).
    Uniform(Quant),
    /// `low` bits; `high` for the head, for value and down projections in the first and last eighth and in every third
    /// layer between (`mixed_*` of mlx-lm).
    Mixed { group_size: i32, low: i32, high: i32 },
    /// The first rule that fits a path, else as `Uniform`.
    Rules { rules: Vec<Rule>, default: Quant },
}

/// Layers by path, in which `*` stands for anything, and their form; `None` leaves them dense.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub pattern: String,
    pub quant: Option<Quant>,
}

impl Recipe {
    /// `mixed_2_6`, `mixed_3_4`, `mixed_3_6`, `mixed_4_6`.
    pub fn mixed(name: &str, group_size: i32) -> Result<Recipe> {
        let (low, high) = match name {
            "mixed_2_6" => (2, 6),
            "mixed_3_4" => (3, 4),
            "mixed_3_6" => (3, 6),
            "mixed_4_6" => (4, 6),
            other => return Err(Error::Request(format!("quantisation recipe {other:?} is not known"))),
        };
        Ok(Recipe::Mixed { group_size, low, high })
    }

    /// Rules from a JSON file: an object of patterns in order, each with `false`, `true` (the default form), a number of
    /// bits, or any of `bits`, `group_size`, `mode`.
    ///
    /// # Errors
    /// A file that is not of this form.
    pub fn from_file(path: &Path, default: Quant) -> Result<Recipe> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let map: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|e| Error::file(path, format!("not a JSON object: {e}")))?;
        let rules = map.into_iter().map(|(pattern, v)| {
            let quant = form(&v, default).map_err(|m| Error::file(path, format!("{pattern:?}: {m}")))?;
            Ok(Rule { pattern, quant })
        });
        Ok(Recipe::Rules { rules: rules.collect::<Result<_>>()?, default })
    }
}

fn form(v: &Value, default: Quant) -> Result<Option<Quant>, String> {
    let int = |v: &Value| v.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or(format!("{v} is not a whole number"));
    let quant = match v {
        Value::Bool(false) => return Ok(None),
        Value::Bool(true) => default,
        Value::Number(_) => Quant { bits: int(v)?, ..default },
        Value::Object(o) => {
            let mut q = default;
            for (key, v) in o {
                match key.as_str() {
                    "bits" => q.bits = int(v)?,
                    "group_size" => q.group_size = int(v)?,
                    "mode" => {
                        q.mode = v.as_str().and_then(QuantMode::from_name).ok_or(format!("mode {v} is not known"))?;
                        let (group_size, bits) = q.mode.defaults();
                        q.group_size = o.get("group_size").map_or(Ok(group_size), int)?;
                        q.bits = o.get("bits").map_or(Ok(bits), int)?;
                    }
                    other => return Err(format!("{other:?} is not bits, group_size or mode")),
                }
            }
            q
        }
        other => return Err(format!("{other} is not false, true, a number of bits or a form")),
    };
    if quant.is_valid() { Ok(Some(quant)) } else { Err(format!("{quant:?} is no form that MLX packs in")) }
}

/// Whether a path is what a pattern describes; `*` stands for any text.
fn fits(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Quantises every layer whose width is a multiple of the group; returns bits per weight.
///
/// # Errors
/// A rule that no layer fits, a layer whose width is no multiple of its own group size.
pub fn quantize(model: &mut Model, recipe: &Recipe) -> Result<f64> {
    let layers = model.decoder.blueprint().layers.len();
    let prefix = format!("{}.", model.decoder.blueprint().layers_path);
    let number = |path: &str| path.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
    let model_type = model.config.model_type().to_string();
    let used = RefCell::new(vec![false; if let Recipe::Rules { rules, .. } = recipe { rules.len() } else { 0 }]);
    nn::quantize(&mut model.decoder, |path, layer: &LayerMut<'_>| {
        if layer.quant().is_some() {
            return None;
        }
        let (group, chosen) = match recipe {
            Recipe::Uniform(q) => (q.group_size, own_form(&model_type, path, *q)),
            Recipe::Mixed { group_size, low, high } => {
                let more = |i: usize| i < layers / 8 || i >= 7 * layers / 8 || (i - layers / 8) % 3 == 2;
                let wide = ["v_proj", "v_a_proj", "v_b_proj", "down_proj"].iter().any(|n| path.contains(n));
                let many = path.contains("lm_head") || (wide && number(path).is_some_and(more));
                let bits = if many { *high } else { *low };
                (*group_size, Some(Quant { group_size: *group_size, bits, mode: QuantMode::Affine }))
            }
            Recipe::Rules { rules, default } => match rules.iter().position(|r| fits(&r.pattern, path)) {
                Some(i) => {
                    used.borrow_mut()[i] = true;
                    (rules[i].quant.map_or(1, |q| q.group_size), rules[i].quant)
                }
                None => (default.group_size, own_form(&model_type, path, *default)),
            },
        };
        chosen.filter(|_| layer.width() % group == 0)
    })?;
    if let (Recipe::Rules { rules, .. }, Some(i)) = (recipe, used.borrow().iter().position(|u| !u)) {
        return Err(Error::Request(format!("quantisation rule {:?}: no layer fits it", rules[i].pattern)));
    }
    Ok(bits_per_weight(model))
}

fn bits_per_weight(model: &mut Model) -> f64 {
    let (mut bits, mut weights) = (0.0, 0.0);
    nn::Module::layers_mut(&mut model.decoder, &mut nn::Path::new(), &mut |_, layer| {
        let (w, q) = (layer.weight(), layer.quant());
        let elements = w.size() as f64 * q.map_or(1.0, |q| 32.0 / q.bits as f64);
        weights += elements;
        bits += q.map_or(w.itemsize() as f64 * 8.0 * elements, |q| {
            let per_group = if q.mode == QuantMode::Affine { 32.0 } else { 8.0 };
            elements * (q.bits as f64 + per_group / q.group_size as f64)
        });
    });
    if weights > 0.0 { bits / weights } else { 0.0 }
}

/// Makes every quantised layer dense.
pub fn dequantize(model: &mut Model) {
    nn::Module::layers_mut(&mut model.decoder, &mut nn::Path::new(), &mut |_, mut layer| layer.dequantize());
}
