//! Clipping gradients.

use crate::Array;
use crate::error::refuse;
use crate::tree::Tree;

/// Gradients scaled so that their joint norm is at most `max_norm`, and the norm they had (`clip_grad_norm`).
#[track_caller]
pub fn clip_grad_norm<T: Tree>(grads: &T, max_norm: f64) -> (T, Array) {
    if max_norm.is_nan() || max_norm < 0.0 {
        refuse("clip_grad_norm", format!("max_norm {max_norm} is negative"));
    }
    let squares = grads.leaves().iter().map(|g| g.square().sum(())).reduce(|a, b| a + b);
    let norm = squares.unwrap_or_else(|| Array::from(0.0f32)).sqrt();
    let factor = crate::divide(max_norm, &norm + 1e-6).minimum(1.0);
    (grads.map(|_, g| g * &factor), norm)
}
