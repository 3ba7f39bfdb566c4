//! Which code builds which part of a blueprint.

use super::{Block, Ffn, Mixer, Prologue};
use crate::blueprint::{Declared, Part, Spec};
use crate::weights::Leaves;
use crate::{Error, Result};
use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};

type Build<T> = Box<dyn Fn(&dyn Spec, &Leaves, &Registry) -> Result<Box<T>>>;

/// From a declared layer and the leaves of its mixer to the mixer's part.
type Kind = Box<dyn Fn(&Declared, &Leaves) -> Result<Part>>;

/// Builders by the type of the blueprint part. [`builtin`](Self::builtin) knows all of this crate; add your own.
#[derive(Default)]
pub struct Registry {
    mixers: HashMap<TypeId, Build<dyn Mixer>>,
    ffns: HashMap<TypeId, Build<dyn Ffn>>,
    blocks: HashMap<TypeId, Build<dyn Block>>,
    prologues: HashMap<TypeId, Build<dyn Prologue>>,
    kinds: BTreeMap<&'static str, Kind>,
}

fn lookup<T: ?Sized>(
    map: &HashMap<TypeId, Build<T>>,
    what: &'static str,
    spec: &dyn Spec,
    leaves: &Leaves,
    r: &Registry,
) -> Result<Box<T>> {
    match map.get(&spec.as_any().type_id()) {
        Some(build) => build(spec, leaves, r),
        None => Err(Error::Unsupported { what, name: spec.kind().into(), message: "no builder is registered".into() }),
    }
}

/// Turns a builder of one part type into one of any part.
macro_rules! entry {
    ($build:expr) => {
        Box::new(move |spec, leaves, r| match spec.as_any().downcast_ref::<S>() {
            Some(s) => Ok(Box::new($build(s, leaves, r)?)),
            None => Err(Error::Unsupported {
                what: "part",
                name: spec.kind().into(),
                message: "it is registered under another type".into(),
            }),
        })
    };
}

impl Registry {
    /// Registers a sequence mixer for its part type.
    pub fn mixer<S: Spec, M: Mixer + 'static>(&mut self, build: impl Fn(&S, &Leaves) -> Result<M> + 'static) {
        let build = move |s: &S, l: &Leaves, _: &Registry| build(s, l);
        self.mixers.insert(TypeId::of::<S>(), entry!(build));
    }
    /// Registers a mixer that is made of other mixers.
    pub fn mixer_with<S: Spec, M: Mixer + 'static>(
        &mut self,
        build: impl Fn(&S, &Leaves, &Registry) -> Result<M> + 'static,
    ) {
        self.mixers.insert(TypeId::of::<S>(), entry!(build));
    }
    /// Registers an ffn for its part type.
    pub fn ffn<S: Spec, F: Ffn + 'static>(&mut self, build: impl Fn(&S, &Leaves) -> Result<F> + 'static) {
        let build = move |s: &S, l: &Leaves, _: &Registry| build(s, l);
        self.ffns.insert(TypeId::of::<S>(), entry!(build));
    }
    /// Registers an ffn that is made of other ffns.
    pub fn ffn_with<S: Spec, F: Ffn + 'static>(
        &mut self,
        build: impl Fn(&S, &Leaves, &Registry) -> Result<F> + 'static,
    ) {
        self.ffns.insert(TypeId::of::<S>(), entry!(build));
    }
    /// Registers a block topology for its part type; it builds its sublayers through the registry.
    pub fn block<S: Spec, B: Block + 'static>(
        &mut self,
        build: impl Fn(&S, &Leaves, &Registry) -> Result<B> + 'static,
    ) {
        self.blocks.insert(TypeId::of::<S>(), entry!(build));
    }

    /// Registers what runs before and after all layers for its part type.
    pub fn prologue<S: Spec, P: Prologue + 'static>(&mut self, build: impl Fn(&S, &Leaves) -> Result<P> + 'static) {
        let build = move |s: &S, l: &Leaves, _: &Registry| build(s, l);
        self.prologues.insert(TypeId::of::<S>(), entry!(build));
    }

    /// Registers a kind that `layer_types` of composed configs may name.
    pub fn kind(&mut self, name: &'static str, part: impl Fn(&Declared, &Leaves) -> Result<Part> + 'static) {
        self.kinds.insert(name, Box::new(part));
    }

    /// The names of all kinds, sorted.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.keys().copied()
    }

    /// The mixer of a declared layer, whose leaves lie below `leaves`.
    pub fn declared(&self, d: &Declared, leaves: &Leaves) -> Result<Part> {
        let Some(part) = self.kinds.get(d.kind.as_str()) else {
            let known: Vec<&str> = self.kinds().collect();
            let message = format!("known kinds are {}", known.join(", "));
            return Err(Error::Unsupported { what: "mixer", name: d.kind.clone(), message });
        };
        part(d, leaves)
    }

    pub fn build_mixer(&self, spec: &dyn Spec, leaves: &Leaves) -> Result<Box<dyn Mixer>> {
        lookup(&self.mixers, "mixer", spec, leaves, self)
    }
    pub fn build_ffn(&self, spec: &dyn Spec, leaves: &Leaves) -> Result<Box<dyn Ffn>> {
        lookup(&self.ffns, "ffn", spec, leaves, self)
    }
    pub fn build_prologue(&self, spec: &dyn Spec, leaves: &Leaves) -> Result<Box<dyn Prologue>> {
        lookup(&self.prologues, "prologue", spec, leaves, self)
    }
    pub fn build_block(&self, spec: &dyn Spec, leaves: &Leaves) -> Result<Box<dyn Block>> {
        lookup(&self.blocks, "block", spec, leaves, self)
    }
}
