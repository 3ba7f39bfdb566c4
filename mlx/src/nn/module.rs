//! The tree of a model: parameters, paths, and the trait that walks them.
//!
//! `Module` is implemented by `#[derive(Module)]`; containers, plain values and layers implement it here, so that no
//! field needs an attribute. What can be done with a model as a whole is in [`ModuleExt`](super::ModuleExt).

use crate::{Array, Dtype};
use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// A parameter: an array and whether it is trained.
#[derive(Debug, Clone)]
pub struct Param {
    value: Array,
    trainable: bool,
    sealed: bool,
}

impl Param {
    /// A trained parameter.
    pub fn new(value: Array) -> Self {
        Param { value, trainable: true, sealed: false }
    }
    /// A parameter that is not trained (`freeze`).
    pub fn frozen(value: Array) -> Self {
        Param { value, trainable: false, sealed: false }
    }
    /// Part of a quantised weight: a blanket `unfreeze` leaves it frozen, as Python's `QuantizedLinear` does.
    pub fn sealed(value: Array) -> Self {
        Param { value, trainable: false, sealed: true }
    }
    pub fn value(&self) -> &Array {
        &self.value
    }
    pub fn value_mut(&mut self) -> &mut Array {
        &mut self.value
    }
    pub fn into_value(self) -> Array {
        self.value
    }
    /// Replaces the value; whether it is trained stays.
    pub fn set(&mut self, value: Array) {
        self.value = value;
    }
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }
    pub fn set_trainable(&mut self, on: bool) {
        self.trainable = on;
    }
}

impl Deref for Param {
    type Target = Array;
    fn deref(&self) -> &Array {
        &self.value
    }
}
impl From<Array> for Param {
    fn from(value: Array) -> Self {
        Param::new(value)
    }
}

/// A dotted name under construction.
#[derive(Debug, Clone, Default)]
pub struct Path {
    text: String,
}

impl Path {
    pub fn new() -> Self {
        Path::default()
    }
    /// Starts at a prefix, `"model.layers.3"`.
    pub fn at(prefix: &str) -> Self {
        Path { text: prefix.into() }
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// Appends a name (an empty one changes nothing); the result undoes it in [`pop`](Self::pop).
    pub fn push(&mut self, name: &str) -> usize {
        let mark = self.text.len();
        if !name.is_empty() {
            if mark > 0 {
                self.text.push('.');
            }
            self.text.push_str(name);
        }
        mark
    }
    /// Back to where `push` found it.
    pub fn pop(&mut self, mark: usize) {
        self.text.truncate(mark);
    }
    /// Runs `f` with `name` appended.
    pub fn enter<R>(&mut self, name: &str, f: impl FnOnce(&mut Path) -> R) -> R {
        let mark = self.push(name);
        let result = f(self);
        self.pop(mark);
        result
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// A layer whose weights can take other forms.
pub enum LayerMut<'a> {
    Linear(&'a mut super::Linear),
    Embedding(&'a mut super::Embedding),
    SwitchLinear(&'a mut super::SwitchLinear),
    /// One matrix per head: can be packed, takes no adapter (mlx-lm's `MultiLinear`).
    MultiLinear(&'a mut super::SwitchLinear),
}

impl LayerMut<'_> {
    /// Width of the weight's dense last axis.
    pub fn width(&self) -> i32 {
        match self {
            LayerMut::Linear(l) => l.in_features(),
            LayerMut::Embedding(l) => l.dims(),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.in_features(),
        }
    }
    /// How the weight is quantised.
    pub fn quant(&self) -> Option<crate::Quant> {
        match self {
            LayerMut::Linear(l) => l.quant(),
            LayerMut::Embedding(l) => l.quant(),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.quant(),
        }
    }
    /// The weight as stored: dense, or packed words.
    pub fn weight(&self) -> &Array {
        match self {
            LayerMut::Linear(l) => l.weight(),
            LayerMut::Embedding(l) => l.weight(),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.weight(),
        }
    }
    /// The dense weight, without the adapter.
    #[track_caller]
    pub fn dense_weight(&self) -> Array {
        match self {
            LayerMut::Linear(l) => l.dense_weight(),
            LayerMut::Embedding(l) => l.dense_weight(),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.dense_weight(),
        }
    }
    pub fn adapter(&self) -> Option<&super::Adapter> {
        match self {
            LayerMut::Linear(l) => l.adapter(),
            LayerMut::Embedding(l) => l.adapter(),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.adapter(),
        }
    }
    /// Sets or removes the adapter; panics if its shapes are not those of this layer.
    #[track_caller]
    pub fn set_adapter(&mut self, adapter: Option<super::Adapter>) {
        match self {
            LayerMut::Linear(l) => l.set_adapter(adapter),
            LayerMut::Embedding(l) => l.set_adapter(adapter),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.set_adapter(adapter),
        }
    }
    /// Packs the weight.
    #[track_caller]
    pub fn quantize(&mut self, quant: crate::Quant) {
        match self {
            LayerMut::Linear(l) => l.quantize(quant),
            LayerMut::Embedding(l) => l.quantize(quant),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.quantize(quant),
        }
    }
    /// Makes the weight dense.
    #[track_caller]
    pub fn dequantize(&mut self) {
        match self {
            LayerMut::Linear(l) => l.dequantize(),
            LayerMut::Embedding(l) => l.dequantize(),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.dequantize(),
        }
    }
    /// Adds the adapter into the weight.
    #[track_caller]
    pub fn fuse(&mut self, dequantize: bool) {
        match self {
            LayerMut::Linear(l) => l.fuse(dequantize),
            LayerMut::Embedding(l) => l.fuse(dequantize),
            LayerMut::SwitchLinear(l) | LayerMut::MultiLinear(l) => l.fuse(dequantize),
        }
    }
}

/// Something with named parameters; derive it.
pub trait Module {
    /// Calls `f` with the dotted name of every parameter, in the order of the fields.
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param));

    /// As [`visit`](Self::visit), for changes.
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param));

    /// Calls `f` with every layer that can be quantised, adapted or replaced.
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        let _ = (path, f);
    }

    /// Switches layers that behave otherwise in training (dropout, batch norm).
    fn set_training(&mut self, on: bool) {
        let _ = on;
    }

    /// Calls `f` with the path of every module in here, itself first (`named_modules`).
    fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
        let _ = (path, f);
    }

    /// A name that replaces the field name in paths.
    fn own_name(&self) -> Option<&str> {
        None
    }
}

/// A module under a checkpoint's name: `Leaf::new("c_attn", linear)` in a field `qkv` reports as `c_attn.weight`.
#[derive(Debug, Clone)]
pub struct Leaf<T> {
    name: Rc<str>,
    value: T,
}

impl<T> Leaf<T> {
    pub fn new(name: impl Into<Rc<str>>, value: T) -> Self {
        Leaf { name: name.into(), value }
    }
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Leaf<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}
impl<T> DerefMut for Leaf<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Module> Module for Leaf<T> {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        self.value.visit(path, f);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        self.value.visit_mut(path, f);
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        self.value.layers_mut(path, f);
    }
    fn set_training(&mut self, on: bool) {
        self.value.set_training(on);
    }
    fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
        self.value.modules(path, f);
    }
    fn own_name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Module for Param {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        f(path.as_str(), self);
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        f(path.as_str(), self);
    }
}

/// `visit` of the field `name` (what the derive calls).
pub fn visit_field<M: Module + ?Sized>(m: &M, name: &str, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
    let mark = path.push(m.own_name().unwrap_or(name));
    m.visit(path, f);
    path.pop(mark);
}

/// `visit_mut` of the field `name` (what the derive calls).
pub fn visit_field_mut<M: Module + ?Sized>(
    m: &mut M,
    name: &str,
    path: &mut Path,
    f: &mut dyn FnMut(&str, &mut Param),
) {
    let mark = path.push(m.own_name().unwrap_or(name));
    m.visit_mut(path, f);
    path.pop(mark);
}

/// `modules` of the field `name` (what the derive calls).
pub fn modules_field<M: Module + ?Sized>(m: &M, name: &str, path: &mut Path, f: &mut dyn FnMut(&str)) {
    let mark = path.push(m.own_name().unwrap_or(name));
    m.modules(path, f);
    path.pop(mark);
}

/// `layers_mut` of the field `name` (what the derive calls).
pub fn layers_field_mut<M: Module + ?Sized>(
    m: &mut M,
    name: &str,
    path: &mut Path,
    f: &mut dyn FnMut(&str, LayerMut<'_>),
) {
    let mark = path.push(m.own_name().unwrap_or(name));
    m.layers_mut(path, f);
    path.pop(mark);
}

macro_rules! forward {
    ($(<$($g:ident),*> $t:ty, |$self:ident| $shared:expr, $unique:expr, $name:expr;)*) => { $(
        impl<$($g: Module + ?Sized),*> Module for $t {
            fn visit(&$self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
                for m in $shared { m.visit(path, f); }
            }
            fn visit_mut(&mut $self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
                for m in $unique { m.visit_mut(path, f); }
            }
            fn layers_mut(&mut $self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
                for m in $unique { m.layers_mut(path, f); }
            }
            fn set_training(&mut $self, on: bool) {
                for m in $unique { m.set_training(on); }
            }
            fn modules(&$self, path: &mut Path, f: &mut dyn FnMut(&str)) {
                for m in $shared { m.modules(path, f); }
            }
            fn own_name(&$self) -> Option<&str> { $name }
        }
    )* };
}
forward! { <T> Box<T>, |self| [&**self], [&mut **self], (**self).own_name(); }

impl<T: Module> Module for Option<T> {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
        if let Some(m) = self {
            m.visit(path, f);
        }
    }
    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
        if let Some(m) = self {
            m.visit_mut(path, f);
        }
    }
    fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
        if let Some(m) = self {
            m.layers_mut(path, f);
        }
    }
    fn set_training(&mut self, on: bool) {
        if let Some(m) = self {
            m.set_training(on);
        }
    }
    fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
        if let Some(m) = self {
            m.modules(path, f);
        }
    }
    fn own_name(&self) -> Option<&str> {
        self.as_ref().and_then(Module::own_name)
    }
}

macro_rules! sequence {
    ($([$($g:tt)*] $t:ty),*) => { $(
        impl<$($g)*> Module for $t {
            fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
                for (i, m) in self.iter().enumerate() {
                    visit_field(m, &i.to_string(), path, f);
                }
            }
            fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
                for (i, m) in self.iter_mut().enumerate() {
                    visit_field_mut(m, &i.to_string(), path, f);
                }
            }
            fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
                for (i, m) in self.iter_mut().enumerate() {
                    layers_field_mut(m, &i.to_string(), path, f);
                }
            }
            fn set_training(&mut self, on: bool) {
                self.iter_mut().for_each(|m| m.set_training(on));
            }
            fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
                for (i, m) in self.iter().enumerate() {
                    modules_field(m, &i.to_string(), path, f);
                }
            }
        }
    )* };
}
sequence!([T: Module] Vec<T>, [T: Module, const N: usize] [T; N]);

macro_rules! map {
    ($($t:ident, |$m:ident| $shared:expr, $unique:expr;)*) => { $(
        impl<T: Module> Module for $t<String, T> {
            fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
                let $m = self;
                for (name, m) in $shared { visit_field(m, name, path, f); }
            }
            fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
                let $m = self;
                for (name, m) in $unique { visit_field_mut(m, name, path, f); }
            }
            fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
                let $m = self;
                for (name, m) in $unique { layers_field_mut(m, name, path, f); }
            }
            fn set_training(&mut self, on: bool) {
                self.values_mut().for_each(|m| m.set_training(on));
            }
            fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
                let $m = self;
                for (name, m) in $shared { modules_field(m, name, path, f); }
            }
        }
    )* };
}
// a hash map is walked in the order of its keys: two walks of one model must agree
map! {
    BTreeMap, |m| m.iter(), m.iter_mut();
    HashMap, |m| sorted(m.iter()), sorted(m.iter_mut());
}

fn sorted<'a, V>(items: impl Iterator<Item = (&'a String, V)>) -> Vec<(&'a String, V)> {
    let mut items: Vec<_> = items.collect();
    items.sort_by_key(|(name, _)| *name);
    items
}

macro_rules! tuple {
    ($($($t:ident $i:tt),+;)*) => { $(
        impl<$($t: Module),+> Module for ($($t,)+) {
            fn visit(&self, path: &mut Path, f: &mut dyn FnMut(&str, &Param)) {
                $( visit_field(&self.$i, stringify!($i), path, f); )+
            }
            fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, &mut Param)) {
                $( visit_field_mut(&mut self.$i, stringify!($i), path, f); )+
            }
            fn layers_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, LayerMut<'_>)) {
                $( layers_field_mut(&mut self.$i, stringify!($i), path, f); )+
            }
            fn set_training(&mut self, on: bool) {
                $( self.$i.set_training(on); )+
            }
            fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
                $( modules_field(&self.$i, stringify!($i), path, f); )+
            }
        }
    )* };
}
tuple! { A 0; A 0, B 1; A 0, B 1, C 2; A 0, B 1, C 2, D 3; A 0, B 1, C 2, D 3, E 4; A 0, B 1, C 2, D 3, E 4, F 5; }

macro_rules! plain {
    ($($t:ty),* $(,)?) => { $(
        impl Module for $t {
            fn visit(&self, _: &mut Path, _: &mut dyn FnMut(&str, &Param)) {}
            fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&str, &mut Param)) {}
        }
    )* };
}
// values without parameters; an `Array` that is no parameter (rope frequencies, masks) is one of them
plain!(
    (),
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    usize,
    i8,
    i16,
    i32,
    i64,
    isize,
    f32,
    f64,
    String,
    &str,
    Dtype,
    Array,
    crate::Quant,
    crate::QuantMode,
    crate::Shape,
    Rc<str>,
);

impl<T: ?Sized> Module for std::marker::PhantomData<T> {
    fn visit(&self, _: &mut Path, _: &mut dyn FnMut(&str, &Param)) {}
    fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&str, &mut Param)) {}
}
