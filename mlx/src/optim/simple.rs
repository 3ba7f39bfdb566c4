//! RMSprop, Adagrad, AdaDelta, Lion.

use super::base::{Base, Optimizer, Rate, Slots, require, slot, with_base, zeros};
use crate::Array;
use crate::error::Result;

with_base!(RMSprop, Adagrad, AdaDelta, Lion);

/// RMSprop: v = alpha * v + (1 - alpha) * g^2, w -= rate * g / (sqrt(v) + eps).
#[derive(Clone)]
pub struct RMSprop {
    pub base: Base,
    pub alpha: f64,
    pub eps: f64,
}

impl RMSprop {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        RMSprop { base: Base::new(Some(learning_rate.into())), alpha: 0.99, eps: 1e-8 }
    }
}

impl Optimizer for RMSprop {
    with_base!();
    fn validate(&self) -> Result<()> {
        require(self.alpha >= 0.0, || format!("RMSprop: alpha {} is negative", self.alpha))?;
        require(self.eps > 0.0, || format!("RMSprop: epsilon {} is not positive", self.eps))
    }
    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["v"], parameter)
    }
    fn apply_single(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        let v = slot(slots, "v", p) * self.alpha + g.square() * (1.0 - self.alpha);
        slots.insert("v".into(), v.clone());
        p - self.base.rate(g) * g / (v.sqrt() + self.eps)
    }
}

/// Adagrad: v += g^2, w -= rate * g / (sqrt(v) + eps).
#[derive(Clone)]
pub struct Adagrad {
    pub base: Base,
    pub eps: f64,
}

impl Adagrad {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        Adagrad { base: Base::new(Some(learning_rate.into())), eps: 1e-8 }
    }
}

impl Optimizer for Adagrad {
    with_base!();
    fn validate(&self) -> Result<()> {
        require(self.eps > 0.0, || format!("Adagrad: epsilon {} is not positive", self.eps))
    }
    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["v"], parameter)
    }
    fn apply_single(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        let v = slot(slots, "v", p) + g.square();
        slots.insert("v".into(), v.clone());
        p - self.base.rate(g) * g / (v.sqrt() + self.eps)
    }
}

/// AdaDelta (arXiv:1212.5701) with a learning rate.
#[derive(Clone)]
pub struct AdaDelta {
    pub base: Base,
    pub rho: f64,
    pub eps: f64,
}

impl AdaDelta {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        AdaDelta { base: Base::new(Some(learning_rate.into())), rho: 0.9, eps: 1e-6 }
    }
}

impl Optimizer for AdaDelta {
    with_base!();
    fn validate(&self) -> Result<()> {
        require(self.rho >= 0.0, || format!("AdaDelta: rho {} is negative", self.rho))?;
        require(self.eps > 0.0, || format!("AdaDelta: epsilon {} is not positive", self.eps))
    }
    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["v", "u"], parameter)
    }
    fn apply_single(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        let u = slot(slots, "u", p);
        let v = slot(slots, "v", p) * self.rho + g.square() * (1.0 - self.rho);
        let d = (&u + self.eps).sqrt() / (&v + self.eps).sqrt() * g;
        slots.insert("u".into(), u * self.rho + d.square() * (1.0 - self.rho));
        slots.insert("v".into(), v);
        p - self.base.rate(g) * d
    }
}

/// Lion (arXiv:2302.06675): the sign of an average of gradients.
#[derive(Clone)]
pub struct Lion {
    pub base: Base,
    pub betas: [f64; 2],
    pub weight_decay: f64,
}

impl Lion {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        Lion { base: Base::new(Some(learning_rate.into())), betas: [0.9, 0.99], weight_decay: 0.0 }
    }
}

impl Optimizer for Lion {
    with_base!();
    fn validate(&self) -> Result<()> {
        require(self.betas.iter().all(|b| (0.0..1.0).contains(b)), || {
            format!("Lion: betas {:?} are not in [0, 1)", self.betas)
        })
    }
    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["m"], parameter)
    }
    fn apply_single(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        let (rate, [b1, b2], m) = (self.base.rate(g), self.betas, slot(slots, "m", p));
        let c = &m * b1 + g * (1.0 - b1);
        slots.insert("m".into(), m * b2 + g * (1.0 - b2));
        let p = if self.weight_decay > 0.0 { (1 - &rate * self.weight_decay) * p } else { p.clone() };
        p - rate * c.sign()
    }
}
