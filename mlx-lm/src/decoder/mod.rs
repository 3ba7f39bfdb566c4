//! Blueprint and weights to a running decoder: embedding, layers, norm, head, and the step that walks them.

mod altup;
mod block;
mod declared;
mod direct;
mod gated;
mod head;
mod headroom;
mod hyper;
mod load;
mod ngram;
mod prologue;
mod random;
mod residual;
mod shortcut;

pub use crate::parts::{Block, Prologue, Registry, Step};
pub use load::{LoadOptions, Model};

use crate::blueprint::{Blueprint, CacheKind};
use crate::cache::{self, Cache, CacheOptions, Caches};
use crate::parts::Norm;
use crate::weights::Leaves;
use crate::{Error, Result};
use crate::{ffn, mixers};
use head::{Embed, Head};
use mlx::nn::module::{LayerMut, Param, Path};
use mlx::nn::{Leaf, Module};
use mlx::{Array, fast};
use std::cell::RefCell;
use std::rc::Rc;

impl Registry {
    /// All parts of this crate.
    pub fn builtin() -> Self {
        let mut r = Registry::default();
        mixers::register(&mut r);
        ffn::register(&mut r);
        prologue::register(&mut r);
        altup::register(&mut r);
        residual::register(&mut r);
        hyper::register(&mut r);
        shortcut::register(&mut r);
        gated::register(&mut r);
        r
    }
}

/// A causal language model: token ids [B, L] to logits [B, L, V].
pub struct Decoder {
    blueprint: Blueprint,
    embed: Embed,
    prologue: Option<Box<dyn Prologue>>,
    layers: Vec<SharedLayer>,
    norm: Option<Leaf<Norm>>,
    head: Head,
    /// Whether [`forward_direct`](Self::forward_direct) computes layers again in the backward pass.
    checkpoint: bool,
}

/// A layer that functions computed later may hold, too: those of checkpointing.
type SharedLayer = Rc<RefCell<Box<dyn Block>>>;

/// (layer, input, its cache, the next layer) to the layer's output.
type Run<'r> = dyn FnMut(&SharedLayer, Array, &mut dyn Cache, Option<&SharedLayer>) -> Array + 'r;

impl Decoder {
    /// Builds every part from its leaves; leaves that no part asked for are an error.
    pub fn build(blueprint: Blueprint, registry: &Registry, leaves: Leaves) -> Result<Decoder> {
        Self::build_with(blueprint, registry, leaves, &mut |_, _| {})
    }

    /// As [`build`](Self::build); `progress` is called with (done, total) layers.
    pub fn build_with(
        mut blueprint: Blueprint,
        registry: &Registry,
        leaves: Leaves,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Decoder> {
        declared::resolve(&mut blueprint, registry, &leaves)?;
        let total = blueprint.layers.len();
        let embed = Embed::load(&blueprint, &leaves)?;
        let prologue = blueprint.prologue.as_ref().map(|p| registry.build_prologue(p.as_ref(), &leaves)).transpose()?;
        let mut layers = Vec::with_capacity(total);
        for (i, layer) in blueprint.layers.iter().enumerate() {
            progress(i, total);
            let at = leaves.at(&blueprint.layers_path).at(&i.to_string());
            let block = block::build(layer, blueprint.hidden, registry, &at).map_err(|e| in_layer(i, e))?;
            // layouts that are changed while loading become real here, one layer at a time: no second copy of the model
            if !leaves.is_outline() {
                let mut arrays = Vec::new();
                block.visit(&mut Path::new(), &mut |_, p| arrays.push(p.value().clone()));
                mlx::eval(&arrays)?;
            }
            layers.push(Rc::new(RefCell::new(block)));
        }
        progress(total, total);
        let norm = match &blueprint.norm {
            Some((path, n)) => Some(Norm::load(&leaves, path, n, &[blueprint.hidden])?),
            None => None,
        };
        let head = Head::load(&blueprint, &leaves)?;
        leaves.finish()?;
        Ok(Decoder { blueprint, embed, prologue, layers, norm, head, checkpoint: false })
    }

    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// Fresh caches, one per layer (`make_prompt_cache`).
    pub fn caches(&self) -> Result<Caches> {
        self.blueprint.caches().iter().map(cache::make).collect()
    }

    /// Caches of a chosen form.
    ///
    /// # Errors
    /// A size below 1.
    pub fn caches_with(&self, options: CacheOptions) -> Result<Caches> {
        self.blueprint.caches().iter().map(|k| cache::make(&options.choose(k)?)).collect()
    }

    /// The caches of a prompt-cache file, for this model's layers.
    ///
    /// # Errors
    /// Another number of layers, a kind of cache that a layer cannot use.
    pub fn adopt_caches(&self, stored: Caches) -> Result<Caches> {
        cache::adopt(&self.blueprint.caches(), stored)
    }

    /// Refuses caches of another model, where their number or kinds tell.
    pub fn check_caches(&self, caches: &mut Caches) -> Result<()> {
        cache::check(&self.blueprint.caches(), caches)
    }

    /// Logits [B, L, V] of all positions.
    pub fn forward(&self, ids: &Array, caches: &mut Caches) -> Array {
        self.logits(&self.hidden(ids, caches))
    }

    /// Logits [B, V] of the last position only.
    pub fn forward_last(&self, ids: &Array, caches: &mut Caches) -> Array {
        let h = self.hidden(ids, caches);
        let l = h.dim(1);
        let last = if l == 1 { h } else { h.slice_axis(1, l - 1..l) };
        self.logits(&last).squeeze(1)
    }

    /// Hidden states [B, L, D] after the last layer, before the final norm.
    pub fn hidden(&self, ids: &Array, caches: &mut Caches) -> Array {
        self.hidden_from(self.embed.forward(ids, caches), ids, caches)
    }

    /// As [`hidden`](Self::hidden), from embeddings [B, L, D] in place of the model's own.
    pub fn hidden_from(&self, embeddings: Array, ids: &Array, caches: &mut Caches) -> Array {
        let step = Step::new(ids);
        let ahead = ids.dim(-1) == 1 && fast::is_fused();
        self.walk(embeddings, &step, caches, &mut |layer, h, cache, next| {
            if ahead {
                let next = next.map(|l| l.borrow());
                step.set_next_weights(
                    next.as_ref().map_or_else(|| self.head.first_weights(&self.embed), |l| l.first_weights()),
                );
            }
            layer.borrow().forward(h, &step, cache)
        })
    }

    /// Everything between embedding and final norm; `run` computes a layer and is told the next one.
    fn walk(&self, embeddings: Array, step: &Step, caches: &mut Caches, run: &mut Run<'_>) -> Array {
        let total = (1 + self.blueprint.again.len()) * self.layers.len();
        let own = self.blueprint.prologue.as_ref().is_some_and(|p| p.cache() != CacheKind::None) as usize;
        assert_eq!(caches.len(), own + total, "one cache per layer and pass");
        let (first, caches) = caches.split_at_mut(own);
        let mut h = match &self.prologue {
            Some(p) => p.before(embeddings, step, first.first_mut().map(|c| c.as_mut())),
            None => embeddings,
        };
        for (i, (layer, cache)) in self.layers.iter().cycle().zip(caches).enumerate() {
            if i > 0 && i % self.layers.len() == 0 && self.blueprint.again[i / self.layers.len() - 1].norm_first {
                h = self.norm.as_ref().map_or(h.clone(), |n| n.forward(&h));
            }
            let next = self.layers.get((i + 1) % self.layers.len()).filter(|_| i + 1 < total);
            h = run(layer, h, cache.as_mut(), next);
        }
        self.prologue.as_ref().map_or_else(|| h.clone(), |p| p.after(h.clone(), step))
    }

    /// Final norm and head.
    pub fn logits(&self, h: &Array) -> Array {
        if let Some((weight, eps)) = self.norm.as_ref().filter(|_| mlx::fast::is_fused()).and_then(|n| n.rms())
            && let Some(logits) = self.head.fused(h, (&weight, eps), &self.embed)
        {
            return logits;
        }
        let normed;
        let h = match &self.norm {
            Some(n) => {
                normed = n.forward(h);
                &normed
            }
            None => h,
        };
        self.head.forward(h, &self.embed)
    }
}

fn in_layer(i: usize, e: Error) -> Error {
    match e {
        Error::Unsupported { what, name, message } => {
            Error::Unsupported { what, name, message: format!("layer {i}: {message}") }
        }
        other => other,
    }
}

impl Module for Decoder {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        self.embed.visit(path, f);
        self.prologue.iter().for_each(|p| p.visit(path, f));
        let layers = &self.layers;
        path.enter(&self.blueprint.layers_path, |path| {
            for (i, layer) in layers.iter().enumerate() {
                path.enter(&i.to_string(), |path| layer.borrow().visit(path, f));
            }
        });
        mlx::nn::module::visit_field(&self.norm, "norm", path, f);
        self.head.visit(path, f);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        self.embed.visit_mut(path, f);
        self.prologue.iter_mut().for_each(|p| p.visit_mut(path, f));
        let layers = &self.layers;
        path.enter(&self.blueprint.layers_path, |path| {
            for (i, layer) in layers.iter().enumerate() {
                path.enter(&i.to_string(), |path| layer.borrow_mut().visit_mut(path, f));
            }
        });
        mlx::nn::module::visit_field_mut(&mut self.norm, "norm", path, f);
        self.head.visit_mut(path, f);
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        self.embed.layers_mut(path, f);
        self.prologue.iter_mut().for_each(|p| p.layers_mut(path, f));
        let layers = &self.layers;
        path.enter(&self.blueprint.layers_path, |path| {
            for (i, layer) in layers.iter().enumerate() {
                path.enter(&i.to_string(), |path| layer.borrow_mut().layers_mut(path, f));
            }
        });
        self.head.layers_mut(path, f);
    }
    fn set_training(&mut self, on: bool) {
        self.prologue.iter_mut().for_each(|p| p.set_training(on));
        for layer in &self.layers {
            layer.borrow_mut().set_training(on);
        }
    }
}

/// Cross entropy of logits [..., V] and targets [...], one value per target, in float32.
pub fn cross_entropy(logits: &Array, targets: &Array) -> Array {
    fast::cross_entropy(&logits.astype(mlx::Dtype::Float32), targets)
}

/// Evaluates the state of all caches.
pub fn eval_caches(caches: &Caches) -> Result<()> {
    let mut arrays = Vec::new();
    for c in caches {
        (c.as_ref() as &dyn Cache).each(&mut |a| arrays.push(a.clone()));
    }
    let _room = headroom::Headroom::new();
    Ok(mlx::eval(&arrays)?)
}
