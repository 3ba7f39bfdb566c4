//! Adam and its kin.

use super::base::{Base, Optimizer, Rate, Slots, require, slot, with_base, zeros};
use crate::Array;
use crate::error::Result;

with_base!(Adam, AdamW, Adamax);

fn validate(betas: [f64; 2], eps: f64) -> Result<()> {
    require(betas.iter().all(|b| (0.0..1.0).contains(b)), || format!("Adam: betas {betas:?} are not in [0, 1)"))?;
    require(eps >= 0.0, || format!("Adam: epsilon {eps} is negative"))
}

/// What Adam and AdamW do to a parameter.
fn adam(g: &Array, p: &Array, slots: &mut Slots, base: &Base, [b1, b2]: [f64; 2], eps: f64, correct: bool) -> Array {
    let rate = base.rate(g);
    let m = slot(slots, "m", p) * b1 + g * (1.0 - b1);
    let v = slot(slots, "v", p) * b2 + g.square() * (1.0 - b2);
    slots.insert("m".into(), m.clone());
    slots.insert("v".into(), v.clone());
    if !correct {
        return p - rate * m / (v.sqrt() + eps);
    }
    let c1 = (rate / (1 - crate::power(b1, base.step()))).astype(g.dtype());
    let c2 = (1 - crate::power(b2, base.step())).rsqrt().astype(g.dtype());
    p - c1 * m / (v.sqrt() * c2 + eps)
}

/// Adam (arXiv:1412.6980): averages of gradients and their squares.
#[derive(Clone)]
pub struct Adam {
    pub base: Base,
    pub betas: [f64; 2],
    pub eps: f64,
    /// Divides the averages by what they have seen so far.
    pub bias_correction: bool,
}

impl Adam {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        Adam { base: Base::new(Some(learning_rate.into())), betas: [0.9, 0.999], eps: 1e-8, bias_correction: false }
    }
}

impl Optimizer for Adam {
    with_base!();
    fn validate(&self) -> Result<()> {
        validate(self.betas, self.eps)
    }
    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["m", "v"], parameter)
    }
    fn apply_single(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        adam(g, p, slots, &self.base, self.betas, self.eps, self.bias_correction)
    }
}

/// Adam with decoupled weight decay (arXiv:1711.05101).
#[derive(Clone)]
pub struct AdamW {
    pub base: Base,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub bias_correction: bool,
}

impl AdamW {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        AdamW {
            base: Base::new(Some(learning_rate.into())),
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            bias_correction: false,
        }
    }
}

impl Optimizer for AdamW {
    with_base!();
    fn validate(&self) -> Result<()> {
        validate(self.betas, self.eps)
    }
    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["m", "v"], parameter)
    }
    fn apply_single(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        let p = p * (1 - self.base.rate(g) * self.weight_decay);
        adam(g, &p, slots, &self.base, self.betas, self.eps, self.bias_correction)
    }
}

/// Adam with the largest gradient in place of the average of squares.
#[derive(Clone)]
pub struct Adamax {
    pub base: Base,
    pub betas: [f64; 2],
    pub eps: f64,
}

impl Adamax {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        Adamax { base: Base::new(Some(learning_rate.into())), betas: [0.9, 0.999], eps: 1e-8 }
    }
}

impl Optimizer for Adamax {
    with_base!();
    fn validate(&self) -> Result<()> {
        validate(self.betas, self.eps)
    }
    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["m", "v"], parameter)
    }
    fn apply_single(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        let [b1, b2] = self.betas;
        let m = slot(slots, "m", p) * b1 + g * (1.0 - b1);
        let v = (slot(slots, "v", p) * b2).maximum(g.abs());
        slots.insert("m".into(), m.clone());
        slots.insert("v".into(), v.clone());
        p - self.base.rate(g) * m / (v + self.eps)
    }
}
