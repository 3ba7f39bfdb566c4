//! Losses (`mlx.nn.losses`). Each gives one value per example, unless reduced; the defaults are Python's.

use crate::error::refuse;
use crate::linalg;
use crate::{Array, Device, clip, where_};

/// What is made of the losses of all examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    #[default]
    None,
    Mean,
    Sum,
}

impl Reduction {
    #[track_caller]
    fn apply(self, loss: Array) -> Array {
        match self {
            Reduction::None => loss,
            Reduction::Mean => loss.mean(()),
            Reduction::Sum => loss.sum(()),
        }
    }
}

#[track_caller]
fn same_shape(op: &str, a: &Array, b: &Array) {
    if a.shape() != b.shape() {
        refuse(op, format!("shapes {:?} and {:?} differ", a.shape(), b.shape()));
    }
}

#[track_caller]
fn weighted(op: &str, loss: Array, weights: Option<&Array>) -> Array {
    match weights {
        None => loss,
        Some(w) => {
            same_shape(op, &loss, w);
            loss * w
        }
    }
}

/// Options of [`cross_entropy_with`].
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy<'a> {
    /// One weight per example.
    pub weights: Option<&'a Array>,
    pub axis: i32,
    /// Share of the target spread over all classes, in [0, 1).
    pub label_smoothing: f64,
    pub reduction: Reduction,
}

impl Default for CrossEntropy<'_> {
    fn default() -> Self {
        CrossEntropy { weights: None, axis: -1, label_smoothing: 0.0, reduction: Reduction::None }
    }
}

/// Cross entropy of logits [..., C] with classes [...] (integers) or probabilities [..., C].
#[track_caller]
pub fn cross_entropy(logits: &Array, targets: &Array) -> Array {
    cross_entropy_with(logits, targets, CrossEntropy::default())
}

/// [`cross_entropy`] with weights, smoothing, another axis, or reduced.
#[track_caller]
pub fn cross_entropy_with(logits: &Array, targets: &Array, o: CrossEntropy<'_>) -> Array {
    const OP: &str = "cross_entropy";
    if !(0.0..1.0).contains(&o.label_smoothing) {
        refuse(OP, format!("label smoothing {} is not in [0, 1)", o.label_smoothing));
    }
    let (n, axis) = (logits.ndim() as i32, o.axis);
    let at = if axis < 0 { axis + n } else { axis };
    if at < 0 || at >= n {
        refuse(OP, format!("axis {axis} of {:?}", logits.shape()));
    }
    let as_probabilities = targets.ndim() == logits.ndim();
    let mut expected = logits.shape().to_vec();
    if !as_probabilities {
        expected.remove(at as usize);
    }
    if targets.shape() != expected {
        refuse(OP, format!("targets {:?} do not match logits {:?}", targets.shape(), logits.shape()));
    }
    let fast = crate::cuda_is_available()
        && crate::default_device() != Device::Cpu
        && !as_probabilities
        && o.label_smoothing == 0.0
        && at == n - 1
        && logits.dtype().is_float()
        && targets.dtype().is_integer();
    let loss = if fast {
        crate::fast::cross_entropy(logits, targets).astype(logits.dtype())
    } else {
        let logits = logits - logits.max_keepdims(axis).stop_gradient();
        let score = if as_probabilities {
            (&logits * targets).sum(axis)
        } else {
            crate::take_along_axis(&logits, &targets.expand_dims(axis), axis).squeeze(axis)
        };
        let normaliser = logits.logsumexp(axis);
        if o.label_smoothing > 0.0 {
            normaliser - score * (1.0 - o.label_smoothing) + -logits.mean(axis) * o.label_smoothing
        } else {
            normaliser - score
        }
    };
    o.reduction.apply(weighted(OP, loss, o.weights))
}

/// Binary cross entropy of logits, or of probabilities, with targets of the same shape.
#[track_caller]
pub fn binary_cross_entropy(
    inputs: &Array,
    targets: &Array,
    weights: Option<&Array>,
    with_logits: bool,
    reduction: Reduction,
) -> Array {
    const OP: &str = "binary_cross_entropy";
    same_shape(OP, inputs, targets);
    let loss = if with_logits {
        crate::logaddexp(0.0, inputs) - inputs * targets
    } else {
        // ln 0 is taken as -100
        let log = clip(inputs.log(), Some(-100), None::<i32>);
        let log_inverse = clip((1 - inputs).log(), Some(-100), None::<i32>);
        -(targets * log + (1 - targets) * log_inverse)
    };
    reduction.apply(weighted(OP, loss, weights))
}

/// |prediction - target|.
#[track_caller]
pub fn l1_loss(predictions: &Array, targets: &Array, reduction: Reduction) -> Array {
    same_shape("l1_loss", predictions, targets);
    reduction.apply((predictions - targets).abs())
}

/// (prediction - target)^2.
#[track_caller]
pub fn mse_loss(predictions: &Array, targets: &Array, reduction: Reduction) -> Array {
    same_shape("mse_loss", predictions, targets);
    reduction.apply((predictions - targets).square())
}

/// -inputs`[target]` of log probabilities along `axis`.
#[track_caller]
pub fn nll_loss(inputs: &Array, targets: &Array, axis: i32, reduction: Reduction) -> Array {
    reduction.apply(-crate::take_along_axis(inputs, &targets.expand_dims(axis), axis).squeeze(axis))
}

/// Negative log likelihood of targets under normal distributions; `full` adds ln(2 pi) / 2 (Python: eps 1e-6).
#[track_caller]
pub fn gaussian_nll_loss(
    inputs: &Array,
    targets: &Array,
    vars: &Array,
    full: bool,
    eps: f64,
    reduction: Reduction,
) -> Array {
    same_shape("gaussian_nll_loss", inputs, targets);
    same_shape("gaussian_nll_loss", inputs, vars);
    let vars = vars.maximum(eps);
    let mut loss = (vars.log() + (targets - inputs).square() / &vars) * 0.5;
    if full {
        loss = loss + 0.5 * std::f64::consts::TAU.ln();
    }
    reduction.apply(loss)
}

/// Divergence of two log distributions along `axis`: sum(e^targets (targets - inputs)).
#[track_caller]
pub fn kl_div_loss(inputs: &Array, targets: &Array, axis: i32, reduction: Reduction) -> Array {
    reduction.apply((targets.exp() * (targets - inputs)).sum(axis))
}

/// Squared within `beta`, linear outside (Python: beta 1).
#[track_caller]
pub fn smooth_l1_loss(predictions: &Array, targets: &Array, beta: f64, reduction: Reduction) -> Array {
    same_shape("smooth_l1_loss", predictions, targets);
    let diff = (predictions - targets).abs();
    reduction.apply(where_(diff.lt(beta), diff.square() * 0.5 / beta, &diff - 0.5 * beta))
}

/// Options of [`triplet_loss`].
#[derive(Debug, Clone, Copy)]
pub struct Triplet {
    pub axis: i32,
    /// Degree of the distance.
    pub p: i32,
    pub margin: f64,
    pub eps: f64,
    pub reduction: Reduction,
}

impl Default for Triplet {
    fn default() -> Self {
        Triplet { axis: -1, p: 2, margin: 1.0, eps: 1e-6, reduction: Reduction::None }
    }
}

/// max(|anchor - positive| - |anchor - negative| + margin, 0).
#[track_caller]
pub fn triplet_loss(anchors: &Array, positives: &Array, negatives: &Array, o: Triplet) -> Array {
    let distance = |b: &Array| ((anchors - b).abs().pow(o.p).sum(o.axis) + o.eps).pow(1.0 / f64::from(o.p));
    o.reduction.apply((distance(positives) - distance(negatives) + o.margin).maximum(0))
}

/// max(1 - input * target, 0) for targets of -1 and 1.
#[track_caller]
pub fn hinge_loss(inputs: &Array, targets: &Array, reduction: Reduction) -> Array {
    reduction.apply((1 - inputs * targets).maximum(0))
}

/// Squared within `delta`, linear outside (Python: delta 1).
#[track_caller]
pub fn huber_loss(inputs: &Array, targets: &Array, delta: f64, reduction: Reduction) -> Array {
    let errors = (inputs - targets).abs();
    let quadratic = errors.minimum(delta);
    let linear = errors - &quadratic;
    reduction.apply(quadratic.square() * 0.5 + linear * delta)
}

/// ln(cosh(input - target)).
#[track_caller]
pub fn log_cosh_loss(inputs: &Array, targets: &Array, reduction: Reduction) -> Array {
    let errors = inputs - targets;
    reduction.apply(errors.logaddexp(-&errors) - std::f64::consts::LN_2)
}

/// Cosine of the angle along `axis` (Python: axis 1, eps 1e-8).
#[track_caller]
pub fn cosine_similarity_loss(x1: &Array, x2: &Array, axis: i32, eps: f64, reduction: Reduction) -> Array {
    let norm = |x: &Array| linalg::norm(x, linalg::Ord::Default, axis, false);
    reduction.apply((x1 * x2).sum(axis) / (norm(x1) * norm(x2)).maximum(eps))
}

/// max(-target * (input1 - input2) + margin, 0) for targets of -1 and 1 (Python: margin 0).
#[track_caller]
pub fn margin_ranking_loss(
    inputs1: &Array,
    inputs2: &Array,
    targets: &Array,
    margin: f64,
    reduction: Reduction,
) -> Array {
    same_shape("margin_ranking_loss", inputs1, inputs2);
    same_shape("margin_ranking_loss", inputs1, targets);
    reduction.apply((-targets * (inputs1 - inputs2) + margin).maximum(0))
}
