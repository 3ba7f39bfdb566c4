//! Layers: residual streams around sublayers.

use crate::Result;
use crate::blueprint::{Branch as BranchSpec, BranchPart, Layer, LayerBody};
use crate::cache::Cache;
use crate::parts::{Around, Block, Ffn, Mixer, Norm, Onto, Registry, Step};
use crate::weights::Leaves;
use mlx::nn::module::{LayerMut, Param, Path};
use mlx::nn::{Leaf, Module};
use mlx::{self as mx, Array, Dtype};

pub(super) fn build(layer: &Layer, hidden: i32, r: &Registry, leaves: &Leaves) -> Result<Box<dyn Block>> {
    let all = |specs: &[BranchSpec]| Ok::<_, crate::Error>(Leaf::new("", branches(specs, hidden, r, leaves)?));
    let one_cache = layer.shared_cache.is_some();
    let scalar = layer.scalar.as_ref().map(|name| leaves.param(name, &[1])).transpose()?;
    Ok(match &layer.body {
        LayerBody::Sequential(specs) => {
            Box::new(Residual { norm: None, branches: all(specs)?, parallel: false, scalar, one_cache })
        }
        LayerBody::Parallel { norm, branches: specs } => Box::new(Residual {
            norm: norm.as_ref().map(|(name, n)| Norm::load(leaves, name, n, &[hidden])).transpose()?,
            branches: all(specs)?,
            parallel: true,
            scalar,
            one_cache,
        }),
        LayerBody::Custom(spec) => return r.build_block(spec.as_ref(), leaves),
        LayerBody::Declared(d) => unreachable!("{} is resolved before anything is built", d.kind),
    })
}

pub(super) enum Sublayer {
    Mixer(Box<dyn Mixer>),
    Ffn(Box<dyn Ffn>),
}

macro_rules! either {
    ($self:ident, $m:ident => $call:expr) => {
        match $self {
            Sublayer::Mixer($m) => $call,
            Sublayer::Ffn($m) => $call,
        }
    };
}

impl Module for Sublayer {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        either!(self, m => m.visit(path, f))
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        either!(self, m => m.visit_mut(path, f))
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        either!(self, m => m.layers_mut(path, f))
    }
    fn set_training(&mut self, on: bool) {
        either!(self, m => m.set_training(on))
    }
    fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
        either!(self, m => m.modules(path, f))
    }
}

/// post_norm(sublayer(norm(x))) * scale
#[derive(Module)]
pub(super) struct Branch {
    norm: Option<Leaf<Norm>>,
    sublayer: Leaf<Sublayer>,
    post_norm: Option<Leaf<Norm>>,
    gain: Option<Leaf<Param>>,
    #[module(skip)]
    scale: f32,
    #[module(skip)]
    clip_f16: bool,
    /// Which of the layer's caches is this mixer's.
    #[module(skip)]
    cache: usize,
}

/// Builds branches in order; each mixer takes the next of the layer's caches.
pub(super) fn branches<'a>(
    specs: impl IntoIterator<Item = &'a BranchSpec>,
    hidden: i32,
    r: &Registry,
    leaves: &Leaves,
) -> Result<Vec<Leaf<Branch>>> {
    let mut mixers = 0;
    specs
        .into_iter()
        .map(|s| {
            let b = Branch::load(s, hidden, r, leaves, mixers)?;
            mixers += matches!(s.part, BranchPart::Mixer(_)) as usize;
            Ok(Leaf::new("", b))
        })
        .collect()
}

impl Branch {
    fn load(s: &BranchSpec, hidden: i32, r: &Registry, leaves: &Leaves, cache: usize) -> Result<Branch> {
        let norm = |n: &Option<(String, crate::blueprint::Norm)>| {
            n.as_ref().map(|(name, n)| Norm::load(leaves, name, n, &[hidden])).transpose()
        };
        let inner = leaves.at(&s.name);
        let sublayer = match &s.part {
            BranchPart::Mixer(m) => Sublayer::Mixer(r.build_mixer(m.as_ref(), &inner)?),
            BranchPart::Ffn(f) => Sublayer::Ffn(r.build_ffn(f.as_ref(), &inner)?),
        };
        Ok(Branch {
            norm: norm(&s.norm)?,
            sublayer: Leaf::new(s.name.as_str(), sublayer),
            post_norm: norm(&s.post_norm)?,
            scale: s.scale,
            gain: s.gain.as_ref().map(|name| leaves.param(name, &[1])).transpose()?,
            clip_f16: s.clip_f16,
            cache,
        })
    }

    pub fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache, many: bool) -> Array {
        let normed;
        let x = match &self.norm {
            Some(n) => {
                normed = n.forward(x);
                &normed
            }
            None => x,
        };
        let y = match &*self.sublayer {
            Sublayer::Mixer(m) if many => m.forward(x, step, cache.part(self.cache)),
            Sublayer::Mixer(m) => m.forward(x, step, cache),
            Sublayer::Ffn(f) => f.forward(x, step),
        };
        self.after(y)
    }

    /// What follows the sublayer.
    fn after(&self, mut y: Array) -> Array {
        if let Some(n) = &self.post_norm {
            y = n.forward(&y);
        }
        if let Some(g) = &self.gain {
            y = &y * g.astype(y.dtype());
        }
        if self.scale == 1.0 { y } else { y * self.scale }
    }

    /// x + this branch in few kernels, for one token per row, where branch and backend allow it.
    fn fused(
        &self,
        x: &Array,
        step: &Step,
        cache: &mut dyn Cache,
        many: bool,
        next: [Option<&Array>; 2],
    ) -> Option<Array> {
        let residual = self.post_norm.is_none()
            && self.gain.is_none()
            && self.scale == 1.0
            && !(self.clip_f16 && x.dtype() == Dtype::Float16);
        let norm = self.norm.as_ref().filter(|_| !many)?;
        let Some((weight, eps)) = norm.rms() else {
            return match &*self.sublayer {
                Sublayer::Mixer(m) if residual => m.onto(&norm.forward(x), Onto { x, next }, step, cache),
                _ => None,
            };
        };
        let around = Around { residual, norm: (&weight, eps), next };
        let y = match &*self.sublayer {
            Sublayer::Mixer(m) => m.fused(x, &around, cache),
            Sublayer::Ffn(f) => f.fused(x, &around),
        }?;
        Some(if residual { y } else { self.join(x.clone(), self.after(y)) })
    }

    pub fn has_mixer(&self) -> bool {
        matches!(*self.sublayer, Sublayer::Mixer(_))
    }

    /// What the branch reads first.
    fn first_weights(&self) -> [Option<&Array>; 2] {
        match &*self.sublayer {
            Sublayer::Ffn(f) => f.first_weights(),
            Sublayer::Mixer(m) => m.first_weights(),
        }
    }

    /// x + y, kept in range of f16 where the family asks for it.
    fn join(&self, x: Array, y: Array) -> Array {
        if self.clip_f16 && x.dtype() == Dtype::Float16 {
            let sum = x.astype(Dtype::Float32) + y.astype(Dtype::Float32);
            return mx::clip(sum, Some(-65504.0), Some(65504.0)).astype(Dtype::Float16);
        }
        x + y
    }
}

/// x + branch(x) one after the other, or x + the sum of all branches of x.
#[derive(Module)]
struct Residual {
    norm: Option<Leaf<Norm>>,
    branches: Leaf<Vec<Leaf<Branch>>>,
    #[module(skip)]
    parallel: bool,
    /// A learned factor on the output.
    scalar: Option<Leaf<Param>>,
    /// All mixers share the layer's cache.
    #[module(skip)]
    one_cache: bool,
}

impl Residual {
    fn scaled(&self, x: Array) -> Array {
        self.scalar.as_ref().map_or_else(|| x.clone(), |s| &x * s.value())
    }

    fn has_many_caches(&self) -> bool {
        !self.one_cache && self.branches.iter().filter(|b| b.has_mixer()).count() > 1
    }
}

impl Block for Residual {
    fn first_weights(&self) -> [Option<&Array>; 2] {
        self.branches.first().map_or([None, None], |b| b.first_weights())
    }

    fn forward(&self, mut x: Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let many = self.has_many_caches();
        if !self.parallel {
            let fuse = x.dim(1) == 1 && mx::fast::is_fused();
            let after = step.next_weights();
            for (i, b) in self.branches.iter().enumerate() {
                let next = || match self.branches.get(i + 1) {
                    Some(b) => b.first_weights(),
                    None => [after[0].as_ref(), after[1].as_ref()],
                };
                if let Some(y) = fuse.then(|| b.fused(&x, step, cache, many, next())).flatten() {
                    x = y;
                    continue;
                }
                let y = b.forward(&x, step, cache, many);
                x = b.join(x, y);
            }
            return self.scaled(x);
        }
        let input = self.norm.as_ref().map_or_else(|| x.clone(), |n| n.forward(&x));
        for b in self.branches.iter() {
            let y = b.forward(&input, step, cache, many);
            x = b.join(x, y);
        }
        self.scaled(x)
    }
}
