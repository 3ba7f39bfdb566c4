//! Norms made from their blueprint.

use crate::blueprint::{self, NormKind};
use crate::weights::Leaves;
use crate::{Error, Result};
use mlx::nn::module::{Param, Path};
use mlx::nn::{Leaf, Module};
use mlx::{Array, fast};
use std::cell::OnceCell;

/// A normalisation over the last axis.
#[derive(Debug, Clone)]
pub struct Norm {
    weight: Option<Param>,
    bias: Option<Param>,
    spec: blueprint::Norm,
    /// weight + offset, made once per weight.
    folded: OnceCell<Array>,
}

impl Module for Norm {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        mlx::nn::module::visit_field(&self.weight, "weight", path, f);
        mlx::nn::module::visit_field(&self.bias, "bias", path, f);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        self.folded.take();
        mlx::nn::module::visit_field_mut(&mut self.weight, "weight", path, f);
        mlx::nn::module::visit_field_mut(&mut self.bias, "bias", path, f);
    }
}

impl Norm {
    /// Takes the leaves that this kind has.
    pub fn load(leaves: &Leaves, name: &str, spec: &blueprint::Norm, shape: &[i32]) -> Result<Leaf<Norm>> {
        let l = leaves.at(name);
        let take = |leaf: &str| l.array(leaf, shape).map(Param::new).map(Some);
        let (weight, bias) = match spec.kind {
            NormKind::Rms { .. } | NormKind::RmsOfWeighted => (take("weight")?, None),
            NormKind::Layer { bias, .. } => (take("weight")?, if bias { take("bias")? } else { None }),
            NormKind::RmsPlain | NormKind::LayerPlain => (None, None),
        };
        Ok(Leaf::new(name, Norm { weight, bias, spec: *spec, folded: OnceCell::new() }))
    }

    /// A norm without leaves.
    pub fn plain(spec: &blueprint::Norm) -> Result<Norm> {
        match spec.kind {
            NormKind::RmsPlain | NormKind::LayerPlain => {
                Ok(Norm { weight: None, bias: None, spec: *spec, folded: OnceCell::new() })
            }
            _ => Err(Error::Unsupported { what: "norm", name: format!("{spec:?}"), message: "it has a weight".into() }),
        }
    }

    fn factor(&self) -> Option<Array> {
        let w = self.weight.as_ref()?.value();
        Some(match self.spec.kind {
            NormKind::Rms { offset } | NormKind::Layer { offset, .. } if offset != 0.0 => {
                self.folded.get_or_init(|| w + offset).clone()
            }
            _ => w.clone(),
        })
    }

    /// Weight and epsilon of an RMS norm with a weight; `None` of any other.
    pub fn rms(&self) -> Option<(Array, f32)> {
        matches!(self.spec.kind, NormKind::Rms { .. }).then(|| Some((self.factor()?, self.spec.eps)))?
    }

    pub fn forward(&self, x: &Array) -> Array {
        let weight = self.factor();
        match self.spec.kind {
            NormKind::Rms { .. } | NormKind::RmsPlain => fast::rms_norm(x, weight.as_ref(), self.spec.eps),
            NormKind::RmsOfWeighted => {
                let weighted = weight.map_or_else(|| x.clone(), |w| x * w.astype(x.dtype()));
                fast::rms_norm(&weighted, None, self.spec.eps)
            }
            NormKind::Layer { .. } | NormKind::LayerPlain => {
                fast::layer_norm(x, weight.as_ref(), self.bias.as_ref().map(Param::value), self.spec.eps)
            }
        }
    }

    /// x [B, H, L, D]; a weight [H, D] has a row per head, one of `[D]` serves all.
    pub fn forward_rows(&self, x: &Array) -> Array {
        let Some(w) = self.factor().filter(|w| w.ndim() == 2) else { return self.forward(x) };
        let plain = match self.spec.kind {
            NormKind::Rms { .. } | NormKind::RmsPlain => fast::rms_norm(x, None, self.spec.eps),
            NormKind::RmsOfWeighted => return self.forward(x),
            NormKind::Layer { .. } | NormKind::LayerPlain => fast::layer_norm(x, None, None, self.spec.eps),
        };
        plain * w.expand_dims(1)
    }
}
