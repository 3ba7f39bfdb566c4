//! A whole sequence without a cache, as in training: all layers at once, or each computed again in the backward pass, so
//! that only what lies between layers is kept.

use super::{Decoder, SharedLayer};
use crate::blueprint::{self, Branch, BranchPart, CacheKind, LayerBody, RopeScaling};
use crate::cache::{self, Cache};
use crate::parts::{Left, Step};
use crate::{Error, Result};
use mlx::nn::{Grads, Module, ModuleExt, Path};
use mlx::{Array, random};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

impl Decoder {
    /// Logits [B, L, V] of a whole sequence, without a cache.
    pub fn forward_direct(&self, ids: &Array) -> Result<Array> {
        self.direct(ids, None)
    }

    /// As [`forward_direct`](Self::forward_direct), of rows that hold several samples: `segments` [B, L] numbers them, and
    /// a position sees only positions of its own number.
    ///
    /// # Errors
    /// A part through which samples would see each other, or in which absolute positions count.
    pub fn forward_packed(&self, ids: &Array, segments: &Array) -> Result<Array> {
        self.packable()?;
        self.direct(ids, Some(segments))
    }

    /// Computes layers of [`forward_direct`](Self::forward_direct) again in the backward pass (`grad_checkpoint`): less
    /// memory, more time, the same gradients.
    pub fn set_checkpoint(&mut self, on: bool) {
        self.checkpoint = on;
    }

    fn direct(&self, ids: &Array, segments: Option<&Array>) -> Result<Array> {
        let kinds = self.blueprint.caches();
        let mut caches = kinds.iter().map(|k| direct_cache(k, segments)).collect::<Result<Vec<_>>>()?;
        let embeddings = self.embed.forward(ids, &mut caches);
        let step = Step::new(ids);
        let h = self.walk(embeddings, &step, &mut caches, &mut |layer, h, cache, _| match self.checkpoint {
            false => layer.borrow().forward(h, &step, cache),
            true => again_when_asked(layer, h, &step, cache),
        });
        Ok(self.logits(&h))
    }

    /// Refuses what packing would change.
    pub fn packable(&self) -> Result<()> {
        let refuse = |what: String, message: &str| {
            Err(Error::Unsupported { what: "packing", name: what, message: message.into() })
        };
        let b = &self.blueprint;
        if b.embed.positions.is_some() {
            return refuse("learned positions".into(), "samples in one row share positions");
        }
        if b.prologue.is_some() || !b.again.is_empty() {
            return refuse("this model".into(), "its layers share more than a mask");
        }
        for (i, layer) in b.layers.iter().enumerate() {
            let branches: &[Branch] = match &layer.body {
                LayerBody::Sequential(b) | LayerBody::Parallel { branches: b, .. } => b,
                LayerBody::Custom(part) => return refuse(format!("layer {i}"), part.kind()),
                LayerBody::Declared(_) => {
                    return refuse(format!("layer {i}"), "its mixer is known by the checkpoint only");
                }
            };
            for branch in branches {
                let BranchPart::Mixer(part) = &branch.part else { continue };
                let plain = match part.as_any().downcast_ref::<blueprint::Attention>() {
                    Some(a) => {
                        let dynamic = a.rope.as_ref().is_some_and(|r| matches!(r.scaling, RopeScaling::Dynamic { .. }));
                        a.query_scale.is_none() && a.blocks.is_none() && !dynamic
                    }
                    None => part.as_any().is::<blueprint::Mla>(),
                };
                if !plain || !segmentable(&part.cache()) {
                    return refuse(
                        format!("layer {i}"),
                        &format!("samples would not be independent in {}", part.kind()),
                    );
                }
            }
        }
        Ok(())
    }
}

fn segmentable(kind: &CacheKind) -> bool {
    matches!(kind, CacheKind::None | CacheKind::Kv | CacheKind::Whole | CacheKind::Rotating { .. })
}

fn direct_cache(kind: &CacheKind, segments: Option<&Array>) -> Result<Box<dyn Cache>> {
    match segments {
        None => cache::make_direct(kind),
        Some(s) => cache::make_segmented(kind, s),
    }
}

/// A layer whose inside is not kept for the backward pass. Its trained parameters, its input, and what earlier layers left
/// are arguments of the function that is differentiated; dropout draws the same numbers both times.
fn again_when_asked(layer: &SharedLayer, h: Array, step: &Step, cache: &dyn Cache) -> Array {
    let params: Grads = layer.borrow().trainable().into_iter().collect();
    let (before, ids, key) = (step.left(), step.ids().clone(), random::state());
    let fresh = cache.boxed_clone();
    let arrays = before.arrays();
    let after: Rc<RefCell<Option<(Left, Array)>>> = Rc::default();
    let (layer, out, first) = (layer.clone(), after.clone(), Cell::new(true));
    let f = mlx::checkpoint(move |(params, h, arrays): &(Grads, Array, Grads)| {
        let own: Grads = layer.borrow().trainable().into_iter().collect();
        let outer = random::state();
        put(&layer, params);
        random::set_state(key.clone());
        let mut left = before.clone();
        left.set_arrays(arrays);
        let step = Step::with(&ids, left);
        let mut cache = fresh.boxed_clone();
        let h = layer.borrow().forward(h.clone(), &step, cache.as_mut());
        let left = step.left();
        let arrays = left.arrays();
        // the second time these come from the function's own results: kept here, they would keep it alive
        if first.replace(false) {
            *out.borrow_mut() = Some((left, random::state()));
        }
        random::set_state(outer);
        put(&layer, &own);
        (h, arrays)
    });
    let (h, arrays) = f(&(params, h, arrays));
    if let Some((mut left, key)) = after.take() {
        left.set_arrays(&arrays);
        step.set_left(left);
        random::set_state(key);
    }
    h
}

/// Sets the parameters of these names.
fn put(layer: &SharedLayer, params: &Grads) {
    layer.borrow_mut().visit_mut(&mut Path::new(), &mut |name, p| {
        if let Some(a) = params.get(name) {
            p.set(a.clone());
        }
    });
}
