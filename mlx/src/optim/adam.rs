//! Adam and its kin.

use super::base::{Base, Optimizer, Rate, Slots, require, slot, with_base, zeros};
use crate::Array;
use crate::error::Result;
use crate::fast::{AdamStep, adam_fused};

with_base!(Adam, AdamW, Adamax);

fn validate(betas: [f64; 2], eps: f64) -> Result<()> {
    require(betas.iter().all(|b| (0.0..1.0).contains(b)), || format!("Adam: betas {betas:?} are not in [0, 1)"))?;
    require(eps >= 0.0, || format!("Adam: epsilon {eps} is negative"))
}

/// What Adam and AdamW do to a parameter, decay of the weights first.
struct Step<'a> {
    base: &'a Base,
    betas: [f64; 2],
    eps: f64,
    decay: f64,
    bias_correction: bool,
}

impl Step<'_> {
    fn apply(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        let ([b1, b2], eps, rate) = (self.betas, self.eps, self.base.rate(g));
        let (m, v) = (slot(slots, "m", p), slot(slots, "v", p));
        let corrections = self.bias_correction.then(|| {
            let first = (&rate / (1 - crate::power(b1, self.base.step()))).astype(g.dtype());
            (first, (1 - crate::power(b2, self.base.step())).rsqrt().astype(g.dtype()))
        });
        let step = AdamStep {
            rate: &rate,
            corrections: corrections.as_ref().map(|c| (&c.0, &c.1)),
            betas: self.betas,
            eps: eps as f32,
            decay: self.decay as f32,
        };
        let [p, m, v] = adam_fused([g, p, &m, &v], &step).unwrap_or_else(|| {
            let p = if self.decay == 0.0 { p.clone() } else { p * (1 - &rate * self.decay) };
            let (m, v) = (m * b1 + g * (1.0 - b1), v * b2 + g.square() * (1.0 - b2));
            let change = match &corrections {
                None => &rate * &m / (v.sqrt() + eps),
                Some((first, second)) => first * &m / (v.sqrt() * second + eps),
            };
            [p - change, m, v]
        });
        slots.insert("m".into(), m);
        slots.insert("v".into(), v);
        p
    }
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
        let &Adam { ref base, betas, eps, bias_correction } = self;
        Step { base, betas, eps, decay: 0.0, bias_correction }.apply(g, p, slots)
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
        let &AdamW { ref base, betas, eps, weight_decay: decay, bias_correction } = self;
        Step { base, betas, eps, decay, bias_correction }.apply(g, p, slots)
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
