//! Adafactor (arXiv:1804.04235): second moments by rows and columns.

use super::base::{Base, Optimizer, Rate, Slots, with_base};
use crate::Array;

with_base!(Adafactor);

/// Adafactor; with `relative_step` it finds its own rate.
#[derive(Clone)]
pub struct Adafactor {
    pub base: Base,
    /// Added to squared gradients; least scale of a parameter.
    pub eps: [f64; 2],
    pub clip_threshold: f64,
    pub decay_rate: f64,
    /// Keeps a first moment as well.
    pub beta_1: Option<f64>,
    pub weight_decay: f64,
    /// Scales the rate by the size of the parameter.
    pub scale_parameter: bool,
    /// A rate of min(1e-2, 1 / sqrt(step)) in place of the learning rate.
    pub relative_step: bool,
    /// Starts the relative step at 1e-6 * step.
    pub warmup_init: bool,
}

impl Default for Adafactor {
    fn default() -> Self {
        Adafactor {
            base: Base::new(None),
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta_1: None,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
        }
    }
}

impl Adafactor {
    /// With a learning rate, which is used when `relative_step` is off.
    pub fn new(learning_rate: impl Into<Rate>) -> Self {
        Adafactor { base: Base::new(Some(learning_rate.into())), ..Adafactor::default() }
    }

    fn scaled_rate(&self, parameter_rms: &Array) -> Array {
        let step = self.base.step();
        let rate = match (self.relative_step, self.warmup_init) {
            (false, _) => self.base.rate(parameter_rms),
            (true, true) => (step * 1e-6).minimum(step.rsqrt()),
            (true, false) => crate::minimum(1e-2, step.rsqrt()),
        };
        let rate = rate.astype(parameter_rms.dtype());
        if self.scale_parameter { parameter_rms.maximum(self.eps[1]) * rate } else { rate * 1.0 }
    }
}

fn rms(x: &Array) -> Array {
    x.square().mean(()).sqrt()
}

impl Optimizer for Adafactor {
    with_base!();

    fn init_single(&self, p: &Array) -> Slots {
        let mut slots = Slots::new();
        if p.ndim() >= 2 {
            let n = p.ndim();
            let mut columns = p.shape().to_vec();
            columns.remove(n - 2);
            slots.insert("exp_avg_sq_row".into(), crate::zeros(&p.shape()[..n - 1], p.dtype()));
            slots.insert("exp_avg_sq_col".into(), crate::zeros(columns, p.dtype()));
        } else {
            slots.insert("exp_avg_sq".into(), crate::zeros_like(p));
        }
        if self.beta_1.is_some() {
            slots.insert("exp_avg".into(), crate::zeros_like(p));
        }
        slots
    }

    fn apply_single(&self, g: &Array, p: &Array, slots: &mut Slots) -> Array {
        let fresh = self.init_single(p);
        let size = rms(p);
        let rate = self.scaled_rate(&size);
        let beta2 = 1.0 - self.base.step().pow(self.decay_rate).astype(size.dtype());
        let square = g.square() + self.eps[0];
        let mut average = |name: &str, new: Array| {
            let old = slots.get(name).or(fresh.get(name)).cloned().unwrap_or_else(|| crate::zeros_like(&new));
            let value = &beta2 * old + (1 - &beta2) * new;
            slots.insert(name.into(), value.clone());
            value
        };
        let mut update = if g.ndim() >= 2 {
            let row = average("exp_avg_sq_row", square.mean(-1));
            let col = average("exp_avg_sq_col", square.mean(-2));
            let row = (&row / row.mean_keepdims(-1)).rsqrt();
            row.expand_dims(-1) * col.rsqrt().expand_dims(-2) * g
        } else {
            average("exp_avg_sq", square).rsqrt() * g
        };
        update = &update / (rms(&update) / self.clip_threshold).maximum(1.0);
        update = &rate * update;
        if let Some(beta) = self.beta_1 {
            let old = slots.get("exp_avg").cloned().unwrap_or_else(|| crate::zeros_like(p));
            update = old * beta + update * (1.0 - beta);
            slots.insert("exp_avg".into(), update.clone());
        }
        if self.weight_decay != 0.0 {
            return p + p * (rate * -self.weight_decay) - update;
        }
        p - update
    }
}
