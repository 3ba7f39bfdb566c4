//! Several optimizers for one model.

use super::base::{Base, Optimizer, Slots};
use crate::Array;
use crate::error::{Error, Result, raise};
use crate::nn::{Grads, Module, ModuleExt};
use crate::transforms::State;
use std::collections::BTreeMap;

type Filter = Box<dyn Fn(&str, &Array) -> bool>;

/// Gives each parameter to the first optimizer whose filter accepts it (`MultiOptimizer`).
///
/// ```
/// use mlx::optim::{Adam, MultiOptimizer, Muon};
/// let opt = MultiOptimizer::new(Adam::new(1e-3)).with(Muon::new(0.02), |_, p| p.ndim() == 2);
/// ```
pub struct MultiOptimizer {
    filtered: Vec<(Box<dyn Optimizer>, Filter)>,
    fallback: Box<dyn Optimizer>,
}

impl MultiOptimizer {
    /// `fallback` takes what no filter accepts.
    pub fn new(fallback: impl Optimizer + 'static) -> Self {
        MultiOptimizer { filtered: Vec::new(), fallback: Box::new(fallback) }
    }

    /// Adds an optimizer for the parameters that `filter` accepts by name and value, before the fallback.
    #[must_use]
    pub fn with(
        mut self,
        optimizer: impl Optimizer + 'static,
        filter: impl Fn(&str, &Array) -> bool + 'static,
    ) -> Self {
        self.filtered.push((Box::new(optimizer), Box::new(filter)));
        self
    }

    fn all(&self) -> impl Iterator<Item = &dyn Optimizer> {
        self.filtered.iter().map(|(o, _)| &**o).chain([&*self.fallback])
    }

    fn parts(&self, arrays: &Grads) -> Vec<Grads> {
        let mut parts = vec![Grads::new(); self.filtered.len() + 1];
        for (name, a) in arrays {
            let i = self.filtered.iter().position(|(_, f)| f(name, a)).unwrap_or(self.filtered.len());
            parts[i].insert(name.clone(), a.clone());
        }
        parts
    }

    /// The updated parameters for these gradients.
    #[track_caller]
    pub fn apply_gradients(&mut self, gradients: &Grads, parameters: &Grads) -> Grads {
        let parts = self.parts(gradients);
        let optimizers = self.filtered.iter_mut().map(|(o, _)| o).chain([&mut self.fallback]);
        let mut out = Grads::new();
        for (optimizer, part) in optimizers.zip(parts) {
            out.extend(optimizer.apply_gradients(&part, parameters));
        }
        out
    }

    /// Updates the parameters of a model.
    #[track_caller]
    pub fn update<M: Module + ?Sized>(&mut self, model: &mut M, gradients: &Grads) {
        let parameters: Grads = model.parameters_where(|name, _| gradients.contains_key(name)).into_iter().collect();
        let new = self.apply_gradients(gradients, &parameters);
        if let Err(e) = model.update(new, false) {
            raise(e);
        }
    }

    /// Makes the state of parameters before their first update.
    pub fn init(&mut self, parameters: &Grads) {
        let parts = self.parts(parameters);
        let optimizers = self.filtered.iter_mut().map(|(o, _)| o).chain([&mut self.fallback]);
        optimizers.zip(parts).for_each(|(optimizer, part)| optimizer.init(&part));
    }

    /// Sets the learning rate of all of them.
    pub fn set_learning_rate(&mut self, rate: f64) {
        self.filtered.iter_mut().for_each(|(o, _)| o.set_learning_rate(rate));
        self.fallback.set_learning_rate(rate);
    }

    /// All state: `states.<n>.` before the names of each optimizer.
    pub fn state(&self) -> BTreeMap<String, Array> {
        let one = |(i, o): (usize, &dyn Optimizer)| {
            o.state().into_iter().map(move |(name, a)| (format!("states.{i}.{name}"), a)).collect::<Vec<_>>()
        };
        self.all().enumerate().flat_map(one).collect()
    }

    /// Goes on from a state that [`state`](Self::state) gave.
    pub fn set_state(&mut self, state: &BTreeMap<String, Array>) -> Result<()> {
        let n = self.filtered.len() + 1;
        let mut parts = vec![BTreeMap::new(); n];
        for (name, a) in state {
            let part = name.strip_prefix("states.").and_then(|rest| rest.split_once('.'));
            match part.and_then(|(i, rest)| Some((i.parse::<usize>().ok()?, rest))) {
                Some((i, rest)) if i < n => parts[i].insert(rest.to_string(), a.clone()),
                _ => return Err(Error::parameter(name, format!("is not the state of one of {n} optimizers"))),
            };
        }
        let optimizers = self.filtered.iter_mut().map(|(o, _)| o).chain([&mut self.fallback]);
        optimizers.zip(&parts).try_for_each(|(optimizer, part)| optimizer.set_state(part))
    }
}

impl State for MultiOptimizer {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        self.all().for_each(|o| o.base().arrays(f));
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        self.filtered.iter_mut().for_each(|(o, _)| o.base_mut().arrays_mut(f));
        self.fallback.base_mut().arrays_mut(f);
    }
}

impl Optimizer for Box<dyn Optimizer> {
    fn base(&self) -> &Base {
        (**self).base()
    }
    fn base_mut(&mut self) -> &mut Base {
        (**self).base_mut()
    }
    fn init_single(&self, parameter: &Array) -> Slots {
        (**self).init_single(parameter)
    }
    fn apply_single(&self, gradient: &Array, parameter: &Array, slots: &mut Slots) -> Array {
        (**self).apply_single(gradient, parameter, slots)
    }
    fn validate(&self) -> Result<()> {
        (**self).validate()
    }
}

impl State for Box<dyn Optimizer> {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        self.base().arrays(f);
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        self.base_mut().arrays_mut(f);
    }
}
