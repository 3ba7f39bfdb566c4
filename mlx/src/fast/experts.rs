//! What surrounds the products of experts: the choice of experts before, the weighted sum after. Each is one kernel on
//! CUDA; the plain forms are what models compose where the result is `None`.

use super::backend::is_traced;
use super::cuda::{self, experts};
use super::linear::{self, Gate, Matrix};
use crate::{Array, Dtype};

/// Logits to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteScores {
    Logits,
    Softmax,
    Sigmoid,
}

/// Scores of the chosen experts to weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RouteWeights {
    Scores,
    /// Divided by their sum + this.
    Normalised(f32),
    Softmax,
}

/// How experts are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Routing<'a> {
    pub top: i32,
    pub scores: RouteScores,
    pub weights: RouteWeights,
    /// float32 `[E]`, added to the scores for the choice only.
    pub correction: Option<&'a Array>,
    /// Factor on the weights.
    pub scale: f32,
}

/// The best experts of each row of logits [..., E]: ids (uint32) and weights (float32) [..., top], best first.
pub fn route_fused(logits: &Array, r: &Routing<'_>) -> Option<(Array, Array)> {
    let gpu = cuda::current_gpu()?;
    let traced = is_traced(logits) || r.correction.is_some_and(is_traced);
    (!traced && logits.ndim() > 0).then(|| experts::route(gpu, logits, r))?
}

/// x [..., K] + sum over S of weights [..., S] (float32) * y [..., S, K].
pub fn combine_fused(x: &Array, y: &Array, weights: &Array) -> Option<Array> {
    let gpu = cuda::current_gpu()?;
    let n = x.ndim();
    let fits = n > 0
        && y.ndim() == n + 1
        && weights.ndim() == n
        && x.shape()[..n - 1] == y.shape()[..n - 1]
        && weights.shape() == &y.shape()[..n]
        && y.dim(-1) == x.dim(-1)
        && y.dtype() == x.dtype()
        && weights.dtype() == Dtype::Float32;
    let traced = || [x, y, weights].into_iter().any(is_traced);
    (fits && !traced()).then(|| experts::combine(gpu, x, y, weights))?
}

/// Products of few rows with chosen experts, as [`expert_linear`](super::expert_linear) without its axes of one:
/// x [T, K] (or [T * S, K]) in any shape, `ids` uint32 [..., S] with T * S choices -> [..., S, N].
pub fn expert_rows_fused(x: &Array, parts: &[Matrix<'_>], ids: &Array, gate: Option<Gate>) -> Option<Array> {
    let rows = x.size() / x.shape().last().map_or(1, |&k| k.max(1)) as usize;
    let (pairs, slots) = (ids.size(), *ids.shape().last()?);
    let share = if rows == pairs { 1 } else { slots };
    if rows * share as usize != pairs || ids.dtype() != Dtype::Uint32 {
        return None;
    }
    linear::few_experts_flat(x, parts, ids, gate, share)
}
