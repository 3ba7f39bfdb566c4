//! What a compiled step may change: things that own arrays.

use crate::nn::{Module, Param, Path};
use crate::{Array, random};
use std::collections::BTreeMap;

/// Something whose arrays a compiled step reads and replaces. Derived with `Module`; optimizers have it.
pub trait State {
    /// Calls `f` with every array, in a fixed order.
    fn arrays(&self, f: &mut dyn FnMut(&Array));
    /// As [`arrays`](Self::arrays), for replacing them.
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array));
}

/// Handles to all arrays of a state.
pub(crate) fn state_arrays<S: State + ?Sized>(state: &S) -> Vec<Array> {
    let mut out = Vec::new();
    state.arrays(&mut |a| out.push(a.clone()));
    out
}

/// [`State::arrays`] of a module (what the derive calls).
pub fn module_arrays<M: Module + ?Sized>(m: &M, f: &mut dyn FnMut(&Array)) {
    m.visit(&mut Path::new(), &mut |_, p| f(p.value()));
}

/// [`State::arrays_mut`] of a module (what the derive calls).
pub fn module_arrays_mut<M: Module + ?Sized>(m: &mut M, f: &mut dyn FnMut(&mut Array)) {
    m.visit_mut(&mut Path::new(), &mut |_, p| f(p.value_mut()));
}

macro_rules! modules {
    ($($t:ty),*) => { $(
        impl State for $t {
            fn arrays(&self, f: &mut dyn FnMut(&Array)) { module_arrays(self, f); }
            fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) { module_arrays_mut(self, f); }
        }
    )* };
}
modules!(Param, crate::nn::Linear, crate::nn::Embedding, crate::nn::SwitchLinear, dyn Module);

impl State for Array {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        f(self);
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        f(self);
    }
}

impl State for () {
    fn arrays(&self, _: &mut dyn FnMut(&Array)) {}
    fn arrays_mut(&mut self, _: &mut dyn FnMut(&mut Array)) {}
}

/// The calling thread's random key as part of a state (`mx.random.state`): each replay draws other numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RandomState;

impl State for RandomState {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        f(&random::state());
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        let mut key = random::state();
        f(&mut key);
        random::set_state(key);
    }
}

impl<S: State + ?Sized> State for &mut S {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        (**self).arrays(f);
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        (**self).arrays_mut(f);
    }
}
impl<S: State + ?Sized> State for Box<S> {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        (**self).arrays(f);
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        (**self).arrays_mut(f);
    }
}
impl<S: State> State for Option<S> {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        self.iter().for_each(|s| s.arrays(f));
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        self.iter_mut().for_each(|s| s.arrays_mut(f));
    }
}
impl<S: State> State for Vec<S> {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        self.iter().for_each(|s| s.arrays(f));
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        self.iter_mut().for_each(|s| s.arrays_mut(f));
    }
}
impl<S: State> State for BTreeMap<String, S> {
    fn arrays(&self, f: &mut dyn FnMut(&Array)) {
        self.values().for_each(|s| s.arrays(f));
    }
    fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) {
        self.values_mut().for_each(|s| s.arrays_mut(f));
    }
}

macro_rules! tuple {
    ($($($t:ident $i:tt),+;)*) => { $(
        impl<$($t: State),+> State for ($($t,)+) {
            fn arrays(&self, f: &mut dyn FnMut(&Array)) { $( self.$i.arrays(f); )+ }
            fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut Array)) { $( self.$i.arrays_mut(f); )+ }
        }
    )* };
}
tuple! { A 0; A 0, B 1; A 0, B 1, C 2; A 0, B 1, C 2, D 3; }
