//! Indexing in brackets, and the functions that take positions.

use crate::conformance::args::{Args, Fail, R, int, wrong};
use crate::conformance::calls::arrays::nested;
use crate::conformance::data::Value;
use mlx::indexing::Slice;
use mlx::{self as mx, ELLIPSIS, Index, NEW_AXIS};
use std::borrow::Cow;

pub fn call(name: &str, _: bool, a: &Args<'_>) -> Option<R<Value>> {
    Some(match name {
        "array.__getitem__" => get(a),
        "array.__setitem__" => set(a),
        "take" => take(a),
        "take_along_axis" => take_along_axis(a),
        "put_along_axis" => put_along_axis(a),
        "slice" => slice(a),
        "slice_update" => slice_update(a),
        "as_strided" => as_strided(a),
        _ => return Some(at(name.strip_prefix("array.at.")?, a)),
    })
}

/// Python's index as items.
fn items(v: &Value) -> R<Vec<Index<'static>>> {
    match v {
        Value::Tuple(v) => v.iter().map(item).collect(),
        one => Ok(vec![item(one)?]),
    }
}

fn item(v: &Value) -> R<Index<'static>> {
    Ok(match v {
        Value::Null => NEW_AXIS,
        Value::Ellipsis => ELLIPSIS,
        Value::Int(_) => Index::At(int(v)?),
        Value::Bool(b) => Index::from(*b),
        Value::Array(a) => Index::Array(Cow::Owned(a.clone())),
        Value::List(_) => Index::Array(Cow::Owned(nested(v, None)?)),
        Value::Slice(s) => {
            let end = |v: &Value| if let Value::Null = v { Ok(None) } else { int(v).map(Some) };
            let step = end(&s[2])?.unwrap_or(1);
            Index::Slice(mx::step(Slice { start: end(&s[0])?, stop: end(&s[1])?, step: 1 }, step))
        }
        other => return wrong(other),
    })
}

fn index(a: &Args<'_>) -> R<Vec<Index<'static>>> {
    a.pos.get(1).map_or_else(|| wrong("index"), items)
}

fn get(a: &Args<'_>) -> R<Value> {
    Ok(a.array(0, "self")?.i(index(a)?).into())
}

fn set(a: &Args<'_>) -> R<Value> {
    let mut x = a.array(0, "self")?;
    x.set(index(a)?, a.operand(2, "value")?);
    Ok(x.into())
}

fn at(name: &str, a: &Args<'_>) -> R<Value> {
    let x = a.array(0, "self")?;
    let (at, v) = (x.at(index(a)?), a.operand(2, "value")?);
    Ok(match name {
        "add" => at.add(v),
        "subtract" => at.subtract(v),
        "multiply" => at.multiply(v),
        "divide" => at.divide(v),
        "maximum" => at.maximum(v),
        "minimum" => at.minimum(v),
        _ => return Err(Fail::Unknown),
    }
    .into())
}

fn take(a: &Args<'_>) -> R<Value> {
    let (x, axis) = (a.array(0, "a")?, a.opt_int(2, "axis")?);
    Ok(mx::take(&x, &a.array(1, "indices")?, axis).into())
}

fn take_along_axis(a: &Args<'_>) -> R<Value> {
    Ok(mx::take_along_axis(&a.array(0, "a")?, &a.array(1, "indices")?, a.opt_int(2, "axis")?).into())
}

fn put_along_axis(a: &Args<'_>) -> R<Value> {
    let (x, i, v) = (a.array(0, "a")?, a.array(1, "indices")?, a.operand(2, "values")?);
    Ok(mx::put_along_axis(&x, &i, v, a.opt_int(3, "axis")?).into())
}

fn slice(a: &Args<'_>) -> R<Value> {
    let (x, start) = (a.array(0, "a")?, a.array(1, "start_indices")?);
    Ok(mx::slice(&x, &start, &a.ints(2, "axes")?, a.shape(3, "slice_size")?).into())
}

fn slice_update(a: &Args<'_>) -> R<Value> {
    let (x, u, start) = (a.array(0, "a")?, a.array(1, "update")?, a.array(2, "start_indices")?);
    Ok(mx::slice_update(&x, &u, &start, &a.ints(3, "axes")?).into())
}

/// The contract of the unsafe function is checked here, as a caller has to.
fn as_strided(a: &Args<'_>) -> R<Value> {
    let x = a.array(0, "a")?;
    let shape = a.opt_ints(1, "shape")?.unwrap_or(x.shape().to_vec());
    let strides: Vec<i64> = match a.opt_ints(2, "strides")? {
        Some(v) => v.into_iter().map(i64::from).collect(),
        None => {
            let mut v = vec![1; shape.len()];
            (1..shape.len()).rev().for_each(|i| v[i - 1] = v[i] * shape[i] as i64);
            v
        }
    };
    let offset = a.int_or(3, "offset", 0)?;
    let reach = |positive: bool| -> i64 {
        let each = shape.iter().zip(&strides).map(|(&d, &s)| (d as i64 - 1).max(0) * s);
        each.filter(|r| (*r > 0) == positive).sum()
    };
    let inside = offset >= 0
        && offset as i64 + reach(false) >= 0
        && offset as i64 + reach(true) < x.size().max(1) as i64
        && strides.len() == shape.len();
    if !inside {
        return wrong("positions outside of the array");
    }
    // SAFETY: all positions lie within the array
    Ok(unsafe { mx::as_strided(&x, shape, &strides, offset as usize) }.into())
}
