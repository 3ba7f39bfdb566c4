//! Stochastic gradient descent.

use super::base::{Base, Optimizer, Rate, Slots, require, slot, with_base, zeros};
use crate::Array;
use crate::error::Result;

/// Stochastic gradient descent: v = momentum * v + (1 - dampening) * g, w -= rate * v.
#[derive(Clone)]
pub struct SGD {
    pub base: Base,
    pub momentum: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    pub dampening: f64,
    /// Nesterov's momentum; needs a momentum and no dampening.
    pub nesterov: bool,
}

impl SGD {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        let base = Base::new(Some(learning_rate.into()));
        SGD { base, momentum: 0.0, weight_decay: 0.0, dampening: 0.0, nesterov: false }
    }
}

with_base!(SGD);

impl Optimizer for SGD {
    with_base!();

    fn validate(&self) -> Result<()> {
        require(!self.nesterov || (self.momentum > 0.0 && self.dampening == 0.0), || {
            "Nesterov momentum needs a momentum and no dampening".into()
        })
    }

    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["v"], parameter)
    }

    fn apply_single(&self, gradient: &Array, parameter: &Array, slots: &mut Slots) -> Array {
        let mut g = gradient.clone();
        if self.weight_decay != 0.0 {
            g = g + parameter * self.weight_decay;
        }
        if self.momentum <= 0.0 {
            return parameter - self.base.rate(&g) * g;
        }
        let v = slot(slots, "v", parameter) * self.momentum;
        let v = if self.dampening > 0.0 { v + &g * (1.0 - self.dampening) } else { v + &g };
        let update = if self.nesterov { &g + &v * self.momentum } else { v.clone() };
        slots.insert("v".into(), v);
        parameter - self.base.rate(&g) * update
    }
}
