//! What all optimizers share: the step, the learning rate, and slots of state for each parameter.

use crate::error::{Error, Result, raise};
use crate::nn::{Grads, Module, ModuleExt};
use crate::transforms::State;
use crate::{Array, Dtype};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The state of one parameter by name: `m`, `v`, ...
pub type Slots = BTreeMap<String, Array>;

/// A learning rate: a number, or a function of the step.
#[derive(Clone)]
pub enum Rate {
    Constant(f64),
    Schedule(Rc<dyn Fn(&Array) -> Array>),
}

impl From<f64> for Rate {
    fn from(rate: f64) -> Self {
        Rate::Constant(rate)
    }
}
impl From<f32> for Rate {
    fn from(rate: f32) -> Self {
        Rate::Constant(rate.into())
    }
}
impl<F: Fn(&Array) -> Array + 'static> From<F> for Rate {
    fn from(schedule: F) -> Self {
        Rate::Schedule(Rc::new(schedule))
    }
}

/// Step, learning rate and slots.
#[derive(Clone)]
pub struct Base {
    step: Array,
    learning_rate: Option<Array>,
    schedule: Option<Rc<dyn Fn(&Array) -> Array>>,
    slots: BTreeMap<String, Slots>,
    /// Keeps state and computes updates in this dtype, whatever that of the parameters; `None` as Python: theirs.
    pub state_dtype: Option<Dtype>,
}

impl Base {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        let step = Array::from(0u64);
        let (learning_rate, schedule) = match rate {
            None => (None, None),
            Some(Rate::Constant(rate)) => (Some(Array::from(rate as f32)), None),
            Some(Rate::Schedule(f)) => (Some(f(&step)), Some(f)),
        };
        Base { step, learning_rate, schedule, slots: BTreeMap::new(), state_dtype: None }
    }

    /// The learning rate in the dtype of a gradient.
    pub(super) fn rate(&self, like: &Array) -> Array {
        match &self.learning_rate {
            Some(rate) => rate.astype(like.dtype()),
            None => raise(Error::op("optimizer", "no learning rate is set")),
        }
    }

    /// Number of updates so far, uint64.
    pub fn step(&self) -> &Array {
        &self.step
    }
}

/// An optimizer. `opt.update(&mut model, &grads)` is all that training needs.
pub trait Optimizer {
    fn base(&self) -> &Base;
    fn base_mut(&mut self) -> &mut Base;

    /// State of a parameter that has not been updated yet.
    fn init_single(&self, parameter: &Array) -> Slots;

    /// One update: the new parameter; `slots` change.
    fn apply_single(&self, gradient: &Array, parameter: &Array, slots: &mut Slots) -> Array;

    /// Whether the options make sense.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Makes the state of parameters before their first update; otherwise the update does.
    fn init(&mut self, parameters: &Grads) {
        for (name, p) in parameters {
            if !self.base().slots.contains_key(name) {
                let p = self.base().state_dtype.map_or_else(|| p.clone(), |d| p.astype(d));
                let slots = self.init_single(&p);
                self.base_mut().slots.insert(name.clone(), slots);
            }
        }
    }

    /// The updated parameters for these gradients.
    #[track_caller]
    fn apply_gradients(&mut self, gradients: &Grads, parameters: &Grads) -> Grads {
        if let Err(e) = self.validate() {
            raise(e);
        }
        self.init(gradients);
        let base = self.base_mut();
        if let Some(schedule) = base.schedule.clone() {
            base.learning_rate = Some(schedule(&base.step));
        }
        base.step = &base.step + 1;
        let mut out = Grads::new();
        for (name, g) in gradients {
            let Some(p) = parameters.get(name) else {
                raise(Error::parameter(name, "has a gradient and is not a parameter"));
            };
            if g.shape() != p.shape() {
                let (g, p) = (g.shape(), p.shape());
                raise(Error::parameter(name, format!("gradient of shape {g:?} for a parameter of {p:?}")));
            }
            let mut slots = self.base_mut().slots.remove(name).unwrap_or_default();
            let new = match self.base().state_dtype {
                None => self.apply_single(g, p, &mut slots),
                Some(d) => self.apply_single(&g.astype(d), &p.astype(d), &mut slots).astype(p.dtype()),
            };
            self.base_mut().slots.insert(name.clone(), slots);
            out.insert(name.clone(), new);
        }
        out
    }

    /// Updates the parameters of a model.
    #[track_caller]
    fn update<M: Module + ?Sized>(&mut self, model: &mut M, gradients: &Grads)
    where
        Self: Sized,
    {
        let parameters: Grads = model.parameters_where(|name, _| gradients.contains_key(name)).into_iter().collect();
        let new = self.apply_gradients(gradients, &parameters);
        if let Err(e) = model.update(new, false) {
            raise(e);
        }
    }

    fn step(&self) -> Array {
        self.base().step.clone()
    }
    fn learning_rate(&self) -> Option<Array> {
        self.base().learning_rate.clone()
    }
    fn set_learning_rate(&mut self, rate: f64) {
        self.base_mut().learning_rate = Some(Array::from(rate as f32));
    }

    /// All state by Python's names: `step`, `learning_rate`, `<parameter>.<slot>`.
    fn state(&self) -> BTreeMap<String, Array> {
        let base = self.base();
        let mut out = BTreeMap::from([("step".to_string(), base.step.clone())]);
        if let Some(rate) = &base.learning_rate {
            out.insert("learning_rate".into(), rate.clone());
        }
        for (name, slots) in &base.slots {
            for (slot, a) in slots {
                out.insert(format!("{name}.{slot}"), a.clone());
            }
        }
        out
    }

    /// Goes on from a state that [`state`](Self::state) gave.
    ///
    /// # Errors
    /// If an entry has no step or is not of the form above.
    fn set_state(&mut self, state: &BTreeMap<String, Array>) -> Result<()> {
        let step = state.get("step").ok_or_else(|| Error::parameter("step", "missing"))?;
        if step.ndim() != 0 {
            return Err(Error::parameter("step", format!("a scalar expected, shape is {:?}", step.shape())));
        }
        let mut slots: BTreeMap<String, Slots> = BTreeMap::new();
        for (name, a) in state {
            match name.rsplit_once('.') {
                Some((parameter, slot)) => {
                    slots.entry(parameter.into()).or_default().insert(slot.into(), a.clone());
                }
                None if name == "step" || name == "learning_rate" => {}
                None => return Err(Error::parameter(name, "is not the state of a parameter")),
            }
        }
        let base = self.base_mut();
        base.step = step.clone();
        base.learning_rate = state.get("learning_rate").cloned().or_else(|| base.learning_rate.clone());
        base.slots = slots;
        Ok(())
    }
}

impl State for Base {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        f(&self.step);
        self.learning_rate.iter().for_each(&mut *f);
        self.slots.values().flat_map(BTreeMap::values).for_each(f);
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        f(&mut self.step);
        self.learning_rate.iter_mut().for_each(&mut *f);
        self.slots.values_mut().flat_map(BTreeMap::values_mut).for_each(f);
    }
}

/// `Optimizer::base` and `State` of a struct with a field `base`.
macro_rules! with_base {
    () => {
        fn base(&self) -> &crate::optim::Base {
            &self.base
        }
        fn base_mut(&mut self) -> &mut crate::optim::Base {
            &mut self.base
        }
    };
    ($($t:ty),*) => { $(
        impl crate::transforms::State for $t {
            fn arrays(&self, f: &mut dyn FnMut(&crate::Array)) {
                self.base.arrays(f);
            }
            fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut crate::Array)) {
                self.base.arrays_mut(f);
            }
        }
    )* };
}
pub(super) use with_base;

/// The slots of these names, each of zeros like the parameter.
pub(super) fn zeros(names: &[&str], parameter: &Array) -> Slots {
    names.iter().map(|n| (n.to_string(), crate::zeros_like(parameter))).collect()
}

/// The value of a slot; one that a loaded state lacks is zero.
pub(super) fn slot(slots: &Slots, name: &str, like: &Array) -> Array {
    slots.get(name).cloned().unwrap_or_else(|| crate::zeros_like(like))
}

/// `Err` unless `holds`.
pub(super) fn require(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::op("optimizer", what())) }
}
