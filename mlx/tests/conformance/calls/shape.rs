//! Shapes: reshaping, joining, splitting, padding, diagonals.

use crate::conformance::args::{Args, R, as_array, int, ints, wrong};
use crate::conformance::data::Value;
use mlx::{self as mx, Array, Axes, GridIndexing, PadMode};

pub fn call(name: &str, method: bool, a: &Args<'_>) -> Option<R<Value>> {
    Some(match name {
        "T" => a.array(0, "self").map(|x| x.t().into()),
        "reshape" => reshape(method, a),
        "transpose" | "permute_dims" | "matrix_transpose" => transpose(method, a),
        "flatten" => flatten(a),
        "unflatten" => unflatten(a),
        "squeeze" => squeeze(a),
        "expand_dims" => expand_dims(a),
        "swapaxes" => pair_of_axes(a, "axis1", "axis2", mx::swapaxes),
        "moveaxis" => pair_of_axes(a, "source", "destination", mx::moveaxis),
        "broadcast_to" => broadcast_to(a),
        "broadcast_shapes" => broadcast_shapes(a),
        "broadcast_arrays" => a.all_arrays().map(|v| mx::broadcast_arrays(&v).into()),
        "concatenate" | "concat" => join(a, true),
        "stack" => join(a, false),
        "unstack" => unstack(a),
        "split" => split(a),
        "repeat" => repeat(a),
        "tile" => tile(a),
        "roll" => roll(a),
        "flip" => flip(a),
        "pad" => pad(a),
        "atleast_1d" => at_least(a, mx::atleast_1d),
        "atleast_2d" => at_least(a, mx::atleast_2d),
        "atleast_3d" => at_least(a, mx::atleast_3d),
        "diag" => diag(a, mx::diag, "k"),
        "tril" => diag(a, mx::tril, "k"),
        "triu" => diag(a, mx::triu, "k"),
        "diagonal" => diagonal(a),
        "trace" => trace(a),
        "diff" => diff(a),
        "meshgrid" => meshgrid(a),
        _ => return None,
    })
}

/// Python's `x.reshape(2, 3)` and `x.reshape((2, 3))`.
fn variadic(a: &Args<'_>) -> R<Vec<i32>> {
    match &a.pos[1..] {
        [one] if one.items().is_some() => ints(one),
        many => many.iter().map(int).collect(),
    }
}

fn reshape(method: bool, a: &Args<'_>) -> R<Value> {
    let shape = if method { variadic(a)? } else { a.ints(1, "shape")? };
    Ok(a.array(0, "a")?.reshape(shape).into())
}

fn transpose(method: bool, a: &Args<'_>) -> R<Value> {
    let x = a.array(0, "a")?;
    let axes = match method {
        true if a.pos.len() > 1 => Axes::from(variadic(a)?),
        _ => a.axes(1, "axes")?,
    };
    Ok(x.transpose(axes).into())
}

fn flatten(a: &Args<'_>) -> R<Value> {
    Ok(a.array(0, "a")?.flatten(a.int_or(1, "start_axis", 0)?, a.int_or(2, "end_axis", -1)?).into())
}

fn unflatten(a: &Args<'_>) -> R<Value> {
    Ok(a.array(0, "a")?.unflatten(a.int(1, "axis")?, a.ints(2, "shape")?).into())
}

fn squeeze(a: &Args<'_>) -> R<Value> {
    Ok(a.array(0, "a")?.squeeze(a.axes(1, "axis")?).into())
}

fn expand_dims(a: &Args<'_>) -> R<Value> {
    Ok(a.array(0, "a")?.expand_dims(Axes::from(a.ints(1, "axis")?)).into())
}

fn pair_of_axes(a: &Args<'_>, x: &str, y: &str, f: fn(&Array, i32, i32) -> Array) -> R<Value> {
    Ok(f(&a.array(0, "a")?, a.int(1, x)?, a.int(2, y)?).into())
}

fn broadcast_to(a: &Args<'_>) -> R<Value> {
    Ok(mx::broadcast_to(&a.array(0, "a")?, a.shape(1, "shape")?).into())
}

fn broadcast_shapes(a: &Args<'_>) -> R<Value> {
    let shapes: Vec<Vec<i32>> = a.pos.iter().map(ints).collect::<R<_>>()?;
    Ok(Value::Tuple(mx::broadcast_shapes(&shapes).into_iter().map(|d| Value::Int(d.into())).collect()))
}

fn join(a: &Args<'_>, existing: bool) -> R<Value> {
    let arrays = a.arrays(0, "arrays")?;
    Ok(match a.axis_or(1, "axis", 0)? {
        Some(axis) if existing => mx::concatenate(&arrays, axis),
        None if existing => mx::concatenate_flat(&arrays),
        axis => mx::stack(&arrays, axis.unwrap_or(0)),
    }
    .into())
}

fn unstack(a: &Args<'_>) -> R<Value> {
    Ok(mx::unstack(&a.array(0, "x")?, a.int_or(9, "axis", 0)?).into())
}

fn split(a: &Args<'_>) -> R<Value> {
    let (x, axis) = (a.array(0, "a")?, a.int_or(2, "axis", 0)?);
    Ok(match a.given(1, "indices_or_sections") {
        Some(v) if v.items().is_some() => x.split_at(&ints(v)?, axis),
        Some(v) => x.split(int(v)?, axis),
        None => return wrong("sections"),
    }
    .into())
}

fn repeat(a: &Args<'_>) -> R<Value> {
    Ok(mx::repeat(&a.array(0, "array")?, a.int(1, "repeats")?, a.opt_int(2, "axis")?).into())
}

fn tile(a: &Args<'_>) -> R<Value> {
    Ok(mx::tile(&a.array(0, "a")?, a.shape(1, "reps")?).into())
}

fn roll(a: &Args<'_>) -> R<Value> {
    // Rust broadcasts one shift over all axes, Python only if it is not in a list
    if let (Some(v), Some(axes)) = (a.given(1, "shift"), a.opt_ints(2, "axis")?)
        && v.items().is_some_and(|v| v.len() < axes.len())
    {
        return wrong(v);
    }
    Ok(mx::roll(&a.array(0, "a")?, a.shape(1, "shift")?, a.axes(2, "axis")?).into())
}

fn flip(a: &Args<'_>) -> R<Value> {
    Ok(mx::flip(&a.array(0, "a")?, a.axes(1, "axis")?).into())
}

fn pad(a: &Args<'_>) -> R<Value> {
    let x = a.array(0, "a")?;
    let pair = |v: &Value| match ints(v)?[..] {
        [n] => Ok((n, n)),
        [low, high] => Ok((low, high)),
        _ => wrong(v),
    };
    let widths = match a.given(1, "pad_width") {
        // a list of pairs, one for all axes or one for each
        Some(Value::List(v) | Value::Tuple(v)) if v.iter().all(|v| v.items().is_some()) => {
            v.iter().map(pair).collect::<R<Vec<_>>>()?
        }
        Some(v) => vec![pair(v)?; x.ndim()],
        None => return wrong("pad_width"),
    };
    let Some(mode) = PadMode::from_name(a.opt_str(2, "mode")?.unwrap_or("constant")) else { return wrong("mode") };
    let zero = Value::Int(0);
    let value = a.some(3, "constant_values").unwrap_or(&zero);
    Ok(mx::pad(&x, &widths, value, mode).into())
}

fn at_least(a: &Args<'_>, f: fn(&Array) -> Array) -> R<Value> {
    Ok(match a.pos {
        [one] => f(&as_array(one)?).into(),
        many => many.iter().map(|v| Ok(f(&as_array(v)?))).collect::<R<Vec<Array>>>()?.into(),
    })
}

fn diag(a: &Args<'_>, f: fn(&Array, i32) -> Array, k: &str) -> R<Value> {
    Ok(f(&a.array(0, "a").or_else(|_| a.array(0, "x"))?, a.int_or(1, k, 0)?).into())
}

fn diagonal(a: &Args<'_>) -> R<Value> {
    let (k, x, y) = (a.int_or(1, "offset", 0)?, a.int_or(2, "axis1", 0)?, a.int_or(3, "axis2", 1)?);
    Ok(mx::diagonal(&a.array(0, "a")?, k, x, y).into())
}

fn trace(a: &Args<'_>) -> R<Value> {
    let (k, x, y) = (a.int_or(1, "offset", 0)?, a.int_or(2, "axis1", 0)?, a.int_or(3, "axis2", 1)?);
    Ok(mx::trace(&a.array(0, "a")?, k, x, y, a.dtype(4, "dtype")?).into())
}

fn diff(a: &Args<'_>) -> R<Value> {
    Ok(mx::diff(&a.array(0, "a")?, a.int_or(1, "n", 1)?, a.int_or(2, "axis", -1)?).into())
}

fn meshgrid(a: &Args<'_>) -> R<Value> {
    let indexing = match a.opt_str(99, "indexing")?.unwrap_or("xy") {
        "xy" => GridIndexing::Xy,
        "ij" => GridIndexing::Ij,
        other => return wrong(other),
    };
    Ok(mx::meshgrid(&a.all_arrays()?, a.bool_or(99, "sparse", false)?, indexing).into())
}
