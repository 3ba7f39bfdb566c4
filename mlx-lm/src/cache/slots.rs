//! Recurrent state: a few arrays of fixed size.

use super::Cache;
use mlx::Array;
use std::any::Any;

/// Slots for convolution tails and recurrent states (`ArraysCache`).
#[derive(Debug, Default, Clone)]
pub struct Slots {
    slots: Vec<Option<Array>>,
    offset: i32,
}

impl Slots {
    pub fn new(n: usize) -> Self {
        Slots { slots: vec![None; n], offset: 0 }
    }
    /// The state in slot `i`; `None` before the first token.
    pub fn get(&self, i: usize) -> Option<&Array> {
        self.slots.get(i)?.as_ref()
    }
    /// Takes the state out, so that the update can reuse its buffer.
    pub fn take(&mut self, i: usize) -> Option<Array> {
        self.slots.get_mut(i)?.take()
    }
    pub fn set(&mut self, i: usize, state: Array) {
        if i >= self.slots.len() {
            self.slots.resize(i + 1, None);
        }
        self.slots[i] = Some(state);
    }
    /// Counts `n` more tokens.
    pub fn advance(&mut self, n: i32) {
        self.offset += n;
    }
}

impl Cache for Slots {
    fn kind(&self) -> &'static str {
        "ArraysCache"
    }
    fn offset(&self) -> i32 {
        self.offset
    }
    fn each(&self, f: &mut dyn FnMut(&Array)) {
        self.slots.iter().flatten().for_each(f);
    }
    fn boxed_clone(&self) -> Box<dyn Cache> {
        Box::new(self.clone())
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn as_slots(&mut self) -> Option<&mut Slots> {
        Some(self)
    }
}
