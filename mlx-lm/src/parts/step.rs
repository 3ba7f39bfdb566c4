//! One forward pass: what layers share while it runs.

use crate::cache::{Kv, MaskKey, Position};
use mlx::Array;
use mlx::fast::{Fused, Mask};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

/// What surrounds a sublayer that computes a whole branch at once: `x + sublayer(rms_norm(x))`, or that without x.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Whether x is added.
    pub residual: bool,
    /// Weight `[D]` and epsilon of the norm.
    pub norm: (&'a Array, f32),
    /// Weights that the next branch reads first.
    pub next: [Option<&'a Array>; 2],
}

impl<'a> Around<'a> {
    /// What follows the last product of the branch of x.
    pub fn after(&self, x: &'a Array) -> Fused<'a> {
        Fused { residual: self.residual.then_some(x), next: self.next, ..Default::default() }
    }
}

/// What a branch is added to, and the weights that the next one reads first.
#[derive(Debug, Clone, Copy)]
pub struct Onto<'a> {
    /// [B, 1, D]
    pub x: &'a Array,
    pub next: [Option<&'a Array>; 2],
}

impl<'a> Onto<'a> {
    /// What follows the last product of the branch.
    pub fn after(&self) -> Fused<'a> {
        Fused { residual: Some(self.x), next: self.next, ..Default::default() }
    }
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

/// What layers have left for later ones of the same pass.
#[derive(Clone, Default)]
pub(crate) struct Left {
    masks: Masks,
    arrays: HashMap<&'static str, Array>,
    kv: HashMap<String, SharedKv>,
}

impl Left {
    /// All but the masks, by name.
    pub fn arrays(&self) -> BTreeMap<String, Array> {
        let plain = self.arrays.iter().map(|(k, a)| (format!("array.{k}"), a.clone()));
        let kv = self
            .kv
            .iter()
            .flat_map(|(k, s)| [(format!("keys.{k}"), s.keys.clone()), (format!("values.{k}"), s.values.clone())]);
        plain.chain(kv).collect()
    }

    /// Puts others in place of what [`arrays`](Self::arrays) gave.
    pub fn set_arrays(&mut self, new: &BTreeMap<String, Array>) {
        let put = |name: String, a: &mut Array| {
            if let Some(new) = new.get(&name) {
                *a = new.clone();
            }
        };
        self.arrays.iter_mut().for_each(|(k, a)| put(format!("array.{k}"), a));
        for (k, s) in &mut self.kv {
            put(format!("keys.{k}"), &mut s.keys);
            put(format!("values.{k}"), &mut s.values);
        }
    }
}

/// The context of one forward pass: masks made once for all layers that need the same one, and arrays that a layer
/// leaves for later ones.
pub struct Step<'a> {
    ids: &'a Array,
    left: RefCell<Left>,
    next: RefCell<[Option<Array>; 2]>,
}

impl<'a> Step<'a> {
    pub fn new(ids: &'a Array) -> Self {
        Self::with(ids, Left::default())
    }

    /// A step in which earlier layers have left this.
    pub(crate) fn with(ids: &'a Array, left: Left) -> Self {
        Step { ids, left: RefCell::new(left), next: RefCell::default() }
    }

    pub(crate) fn left(&self) -> Left {
        self.left.borrow().clone()
    }

    pub(crate) fn set_left(&self, left: Left) {
        *self.left.borrow_mut() = left;
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
        self.left.borrow_mut().masks.entry(key).or_insert_with(|| kv.mask(n, window, as_array)).clone()
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
        self.left.borrow_mut().kv.insert(name.into(), kv);
    }

    /// The keys and values that an earlier layer left.
    pub fn get_kv(&self, name: &str) -> Option<SharedKv> {
        self.left.borrow().kv.get(name).cloned()
    }

    /// Leaves an array for later layers of this pass.
    pub fn put(&self, name: &'static str, array: Array) {
        self.left.borrow_mut().arrays.insert(name, array);
    }

    /// What an earlier layer left.
    pub fn get(&self, name: &'static str) -> Option<Array> {
        self.left.borrow().arrays.get(name).cloned()
    }
}
