//! The area `losses`, and the gradients of losses by their first argument.

use super::args::{Args, Fail, R, wrong};
use super::calls::judge;
use super::compare::Tolerance;
use super::data::{Case, Value};
use super::verdict::Verdict;
use mlx::nn::losses::{self, CrossEntropy, Reduction, Triplet};
use mlx::{self as mx, Array};

fn reduction(a: &Args<'_>, i: usize, default: Reduction) -> R<Reduction> {
    match a.opt_str(i, "reduction")? {
        None => Ok(default),
        Some("none") => Ok(Reduction::None),
        Some("mean") => Ok(Reduction::Mean),
        Some("sum") => Ok(Reduction::Sum),
        Some(other) => wrong(other),
    }
}

fn loss(name: &str, a: &Args<'_>, first: &Array) -> R<Array> {
    let second = |name: &str| a.array(1, name);
    let (none, mean) = (Reduction::None, Reduction::Mean);
    Ok(match name {
        "cross_entropy" => {
            let weights = a.opt_array(2, "weights")?;
            let o = CrossEntropy {
                weights: weights.as_ref(),
                axis: a.int_or(3, "axis", -1)?,
                label_smoothing: a.float_or(4, "label_smoothing", 0.0)?,
                reduction: reduction(a, 5, none)?,
            };
            losses::cross_entropy_with(first, &second("targets")?, o)
        }
        "binary_cross_entropy" => {
            let (weights, logits) = (a.opt_array(2, "weights")?, a.bool_or(3, "with_logits", true)?);
            losses::binary_cross_entropy(first, &second("targets")?, weights.as_ref(), logits, reduction(a, 4, mean)?)
        }
        "l1_loss" => losses::l1_loss(first, &second("targets")?, reduction(a, 2, mean)?),
        "mse_loss" => losses::mse_loss(first, &second("targets")?, reduction(a, 2, mean)?),
        "nll_loss" => losses::nll_loss(first, &second("targets")?, a.int_or(2, "axis", -1)?, reduction(a, 3, none)?),
        "gaussian_nll_loss" => {
            let (full, eps) = (a.bool_or(3, "full", false)?, a.float_or(4, "eps", 1e-6)?);
            let vars = a.array(2, "vars")?;
            losses::gaussian_nll_loss(first, &second("targets")?, &vars, full, eps, reduction(a, 5, mean)?)
        }
        "kl_div_loss" => {
            losses::kl_div_loss(first, &second("targets")?, a.int_or(2, "axis", -1)?, reduction(a, 3, none)?)
        }
        "smooth_l1_loss" => {
            losses::smooth_l1_loss(first, &second("targets")?, a.float_or(2, "beta", 1.0)?, reduction(a, 3, mean)?)
        }
        "triplet_loss" => {
            let o = Triplet {
                axis: a.int_or(3, "axis", -1)?,
                p: a.int_or(4, "p", 2)?,
                margin: a.float_or(5, "margin", 1.0)?,
                eps: a.float_or(6, "eps", 1e-6)?,
                reduction: reduction(a, 7, none)?,
            };
            losses::triplet_loss(first, &second("positives")?, &a.array(2, "negatives")?, o)
        }
        "hinge_loss" => losses::hinge_loss(first, &second("targets")?, reduction(a, 2, none)?),
        "huber_loss" => {
            losses::huber_loss(first, &second("targets")?, a.float_or(2, "delta", 1.0)?, reduction(a, 3, none)?)
        }
        "log_cosh_loss" => losses::log_cosh_loss(first, &second("targets")?, reduction(a, 2, none)?),
        "cosine_similarity_loss" => {
            let (axis, eps) = (a.int_or(2, "axis", 1)?, a.float_or(3, "eps", 1e-8)?);
            losses::cosine_similarity_loss(first, &second("x2")?, axis, eps, reduction(a, 4, none)?)
        }
        "margin_ranking_loss" => {
            let (targets, margin) = (a.array(2, "targets")?, a.float_or(3, "margin", 0.0)?);
            losses::margin_ranking_loss(first, &second("inputs2")?, &targets, margin, reduction(a, 4, none)?)
        }
        _ => return Err(Fail::Unknown),
    })
}

fn run(case: &Case) -> R<Value> {
    let a = Args { pos: &case.args, kw: &case.kwargs };
    let first = ["logits", "inputs", "predictions", "anchors", "x1", "inputs1"]
        .iter()
        .find_map(|name| a.array(0, name).ok())
        .ok_or(Fail::Unknown)?;
    let value: Value = match case.name.strip_prefix("grad:nn.losses.") {
        Some(name) => {
            // arguments are checked outside of the transform, in which they cannot fail
            loss(name, &a, &first)?;
            mx::grad(|x: &Array| loss(name, &a, x).map_or_else(|_| x.clone(), |y| y.sum(())))(&first).into()
        }
        None => loss(case.name.trim_start_matches("nn.losses."), &a, &first)?.into(),
    };
    mx::eval(value.arrays()).map_err(Fail::Eval)?;
    Ok(value)
}

/// Checks one record.
pub fn check(case: &Case) -> Verdict {
    judge(case, mx::catch(|| run(case)).unwrap_or_else(|e| Err(Fail::Call(e))), Tolerance::Loose)
}
