//! Muon: momentum made orthogonal by Newton-Schulz iteration.

use super::base::{Base, Optimizer, Rate, Slots, slot, with_base, zeros};
use crate::linalg;
use crate::{Array, addmm};

with_base!(Muon);

/// Muon (kellerjordan.github.io/posts/muon): for hidden weights; leave embeddings, output layers and vectors to another
/// optimizer ([`MultiOptimizer`](super::MultiOptimizer)).
#[derive(Clone)]
pub struct Muon {
    pub base: Base,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
    /// Newton-Schulz steps.
    pub ns_steps: usize,
}

impl Muon {
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        let base = Base::new(Some(learning_rate.into()));
        Muon { base, momentum: 0.95, weight_decay: 0.01, nesterov: true, ns_steps: 5 }
    }
}

/// Brings the singular values of a matrix near one.
fn newton_schulz(x: &Array, steps: usize) -> Array {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    let tall = x.dim(-2) > x.dim(-1);
    let mut x = if tall { x.t() } else { x.clone() };
    x = &x / (linalg::norm(&x, linalg::Ord::Default, (), true) + 1e-7);
    for _ in 0..steps {
        let square = x.matmul(&x.t());
        let poly = addmm(&(&square * b), &square, &square, c, 1.0);
        x = addmm(&(&x * a), &poly, &x, 1.0, 1.0);
    }
    if tall { x.t() } else { x }
}

impl Optimizer for Muon {
    with_base!();

    fn init_single(&self, parameter: &Array) -> Slots {
        zeros(&["v"], parameter)
    }

    fn apply_single(&self, gradient: &Array, p: &Array, slots: &mut Slots) -> Array {
        let mut g = gradient.clone();
        if self.weight_decay != 0.0 {
            g = g + p * self.weight_decay;
        }
        let v = slot(slots, "v", p) * self.momentum + &g * (1.0 - self.momentum);
        slots.insert("v".into(), v.clone());
        let mut update = if self.nesterov { &g * (1.0 - self.momentum) + v * self.momentum } else { v };
        let mut rate = self.base.rate(&g);
        if update.ndim() >= 2 {
            let shape = update.shape().to_vec();
            // filters count as rows
            let flat = if shape.len() > 2 { update.reshape([shape[0], -1]) } else { update };
            update = newton_schulz(&flat, self.ns_steps).reshape(&shape[..]);
            let n = shape.len();
            let ratio = f64::from(shape[n - 2]) / f64::from(shape[n - 1]);
            rate = rate * ratio.max(1.0).sqrt();
        }
        p - rate * update
    }
}
