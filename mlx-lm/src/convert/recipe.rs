//! Which layer gets how many bits.

use crate::decoder::Model;
use crate::{Error, Result};
use mlx::nn::{self, LayerMut};
use mlx::{Quant, QuantMode};

/// How a model is quantised: one form for all layers, or more bits where it matters (`mixed_*` of mlx-lm).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Recipe {
    Uniform(Quant),
    /// `low` bits; `high` for the head, for value and down projections in the first and last eighth and in every third
    /// layer between.
    Mixed {
        group_size: i32,
        low: i32,
        high: i32,
    },
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

    fn of(self, path: &str, layer: Option<usize>, layers: usize) -> Quant {
        match self {
            Recipe::Uniform(q) => q,
            Recipe::Mixed { group_size, low, high } => {
                let more = |i: usize| i < layers / 8 || i >= 7 * layers / 8 || (i - layers / 8) % 3 == 2;
                let wide = ["v_proj", "v_a_proj", "v_b_proj", "down_proj"].iter().any(|n| path.contains(n));
                let many = path.contains("lm_head") || (wide && layer.is_some_and(more));
                Quant { group_size, bits: if many { high } else { low }, mode: QuantMode::Affine }
            }
        }
    }
}

/// Quantises every layer whose width is a multiple of the group; returns bits per weight.
pub fn quantize(model: &mut Model, recipe: Recipe) -> Result<f64> {
    let layers = model.decoder.blueprint().layers.len();
    let prefix = format!("{}.", model.decoder.blueprint().layers_path);
    let number = |path: &str| path.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
    nn::quantize(&mut model.decoder, |path, layer: &LayerMut<'_>| {
        let q = recipe.of(path, number(path), layers);
        (layer.width() % q.group_size == 0).then_some(q)
    })?;
    let (mut bits, mut weights) = (0.0, 0.0);
    nn::Module::layers_mut(&mut model.decoder, &mut nn::Path::new(), &mut |_, layer| {
        let (w, q) = match &layer {
            LayerMut::Linear(l) => (l.weight().clone(), l.quant()),
            LayerMut::Embedding(l) => (l.weight().clone(), l.quant()),
            LayerMut::SwitchLinear(l) => (l.weight().clone(), l.quant()),
        };
        let elements = w.size() as f64 * q.map_or(1.0, |q| 32.0 / q.bits as f64);
        weights += elements;
        bits += q.map_or(w.itemsize() as f64 * 8.0 * elements, |q| {
            let per_group = if q.mode == QuantMode::Affine { 32.0 } else { 8.0 };
            elements * (q.bits as f64 + per_group / q.group_size as f64)
        });
    });
    Ok(if weights > 0.0 { bits / weights } else { 0.0 })
}
