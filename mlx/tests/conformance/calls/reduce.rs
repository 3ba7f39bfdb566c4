//! Reductions, scans, sorting.

use crate::conformance::args::{Args, R, wrong};
use crate::conformance::data::Value;
use mlx::{self as mx, Array, Axes, Scan, Side};

type Reduction = fn(&Array, Axes) -> Array;

fn reduction(name: &str) -> Option<(Reduction, Reduction)> {
    macro_rules! table {
        ($($f:ident $keep:ident;)*) => { match name {
            $( stringify!($f) => Some(((|a, axes| mx::$f(a, axes)) as Reduction, (|a, axes| mx::$keep(a, axes)) as Reduction)), )*
            _ => None,
        } };
    }
    table! {
        all all_keepdims; any any_keepdims; count_nonzero count_nonzero_keepdims; logsumexp logsumexp_keepdims;
        max max_keepdims; mean mean_keepdims; median median_keepdims; min min_keepdims; prod prod_keepdims;
        sum sum_keepdims;
    }
}

pub fn call(name: &str, _: bool, a: &Args<'_>) -> Option<R<Value>> {
    if let Some(f) = reduction(name) {
        return Some(reduce(f, a));
    }
    Some(match name {
        "var" | "std" => spread(name, a),
        "argmax" | "argmin" => arg(name, a),
        "cumsum" | "cumprod" | "cummax" | "cummin" | "logcumsumexp" | "cumulative_sum" | "cumulative_prod" => {
            scan(name, a)
        }
        "softmax" => softmax(a),
        "sort" | "argsort" => sort(name, a),
        "partition" | "argpartition" | "topk" => partition(name, a),
        "searchsorted" => search(a),
        _ => return None,
    })
}

fn reduce((plain, keep): (Reduction, Reduction), a: &Args<'_>) -> R<Value> {
    let f = if a.bool_or(2, "keepdims", false)? { keep } else { plain };
    Ok(f(&a.array(0, "a")?, a.axes(1, "axis")?).into())
}

fn spread(name: &str, a: &Args<'_>) -> R<Value> {
    let (x, axes) = (a.array(0, "a")?, a.axes(1, "axis")?);
    let (keep, ddof) = (a.bool_or(2, "keepdims", false)?, a.int_or(3, "ddof", 0)?);
    Ok(if name == "var" { mx::var_with(&x, axes, keep, ddof) } else { mx::std_with(&x, axes, keep, ddof) }.into())
}

fn arg(name: &str, a: &Args<'_>) -> R<Value> {
    let (x, axis, keep) = (a.array(0, "a")?, a.opt_int(1, "axis")?, a.bool_or(2, "keepdims", false)?);
    Ok(if name == "argmax" { mx::argmax_with(&x, axis, keep) } else { mx::argmin_with(&x, axis, keep) }.into())
}

fn scan(name: &str, a: &Args<'_>) -> R<Value> {
    let scan = Scan {
        reverse: a.bool_or(9, "reverse", false)?,
        inclusive: a.bool_or(9, "inclusive", true)?,
        dtype: a.dtype(9, "dtype")?,
    };
    let (x, axis) = (a.array(0, "a")?, a.opt_int(1, "axis")?);
    Ok(match name {
        "cumsum" | "cumulative_sum" => mx::cumsum_with(&x, axis, scan),
        "cumprod" | "cumulative_prod" => mx::cumprod_with(&x, axis, scan),
        "cummax" => mx::cummax_with(&x, axis, scan),
        "cummin" => mx::cummin_with(&x, axis, scan),
        _ => mx::logcumsumexp_with(&x, axis, scan),
    }
    .into())
}

fn softmax(a: &Args<'_>) -> R<Value> {
    Ok(mx::softmax_with(&a.array(0, "a")?, a.axes(1, "axis")?, a.bool_or(9, "precise", false)?).into())
}

fn sort(name: &str, a: &Args<'_>) -> R<Value> {
    let (x, axis) = (a.array(0, "a")?, a.axis_or(1, "axis", -1)?);
    Ok(if name == "sort" { mx::sort(&x, axis) } else { mx::argsort(&x, axis) }.into())
}

fn partition(name: &str, a: &Args<'_>) -> R<Value> {
    let (x, axis) = (a.array(0, "a")?, a.axis_or(2, "axis", -1)?);
    let k = a.int(1, if name == "topk" { "k" } else { "kth" })?;
    Ok(match name {
        "partition" => mx::partition(&x, k, axis),
        "argpartition" => mx::argpartition(&x, k, axis),
        _ => mx::topk(&x, k, axis),
    }
    .into())
}

fn search(a: &Args<'_>) -> R<Value> {
    let side = match a.opt_str(2, "side")?.unwrap_or("left") {
        "left" => Side::Left,
        "right" => Side::Right,
        other => return wrong(other),
    };
    Ok(mx::searchsorted(&a.array(0, "sorted_sequence")?, &a.array(1, "values")?, side).into())
}
