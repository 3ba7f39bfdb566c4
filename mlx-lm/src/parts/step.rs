//! One forward pass: what layers share while it runs.

use crate::cache::{Kv, MaskKey, Position};
use mlx::Array;
use mlx::fast::Mask;
use std::cell::RefCell;
use std::collections::HashMap;

/// What surrounds a sublayer that computes a whole branch at once: `x + sublayer(rms_norm(x))`.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Weight `[D]` and epsilon of the norm.
    pub norm: (&'a Array, f32),
    /// Weights that the next branch reads first.
    pub next: [Option<&'a Array>; 2],
}

/// Keys and values [B, Hkv, T, D] that a layer leaves for later layers of the same pass, with how queries see them.
#[derive(Debug, Clone)]
pub struct SharedKv {
    pub keys: Array,
    pub values: Array,
    pub mask: Mask,
    /// Where the first new token stands.
    pub position: Position,
}

type Masks = HashMap<(MaskKey, i32, Option<i32>, bool), Mask>;

/// The context of one forward pass: masks made once for all layers that need the same one, and arrays that a layer
/// leaves for later ones.
pub struct Step<'a> {
    ids: &'a Array,
    masks: RefCell<Masks>,
    shared: RefCell<HashMap<&'static str, Array>>,
    shared_kv: RefCell<HashMap<String, SharedKv>>,
    next: RefCell<[Option<Array>; 2]>,
}

impl<'a> Step<'a> {
    pub fn new(ids: &'a Array) -> Self {
        Step {
            ids,
            masks: RefCell::default(),
            shared: RefCell::default(),
            shared_kv: RefCell::default(),
            next: RefCell::default(),
        }
    }

    /// The token ids [B, L] of this pass.
    pub fn ids(&self) -> &Array {
        self.ids
    }

    /// The mask of the next `n` queries on a cache, within `window`.
    pub fn mask(&self, kv: &dyn Kv, n: i32, window: Option<i32>) -> Mask {
        self.mask_with(kv, n, window, false)
    }

    /// As [`mask`](Self::mask), always as an array when `as_array`.
    pub fn mask_with(&self, kv: &dyn Kv, n: i32, window: Option<i32>, as_array: bool) -> Mask {
        let key = (kv.mask_key(), n, window, as_array);
        self.masks.borrow_mut().entry(key).or_insert_with(|| kv.mask(n, window, as_array)).clone()
    }

    /// Weights that the next layer, or the head after the last one, reads first.
    pub fn next_weights(&self) -> [Option<Array>; 2] {
        self.next.borrow().clone()
    }

    pub(crate) fn set_next_weights(&self, next: [Option<&Array>; 2]) {
        *self.next.borrow_mut() = next.map(|a| a.cloned());
    }

    /// Leaves keys and values for later layers of this pass.
    pub fn put_kv(&self, name: &str, kv: SharedKv) {
        self.shared_kv.borrow_mut().insert(name.into(), kv);
    }

    /// The keys and values that an earlier layer left.
    pub fn get_kv(&self, name: &str) -> Option<SharedKv> {
        self.shared_kv.borrow().get(name).cloned()
    }

    /// Leaves an array for later layers of this pass.
    pub fn put(&self, name: &'static str, array: Array) {
        self.shared.borrow_mut().insert(name, array);
    }

    /// What an earlier layer left.
    pub fn get(&self, name: &'static str) -> Option<Array> {
        self.shared.borrow().get(name).cloned()
    }
}
