//! Random numbers.

use crate::conformance::args::{Args, R, int, wrong};
use crate::conformance::compare::{Tolerance, differ};
use crate::conformance::data::{Case, Value};
use crate::conformance::verdict::Verdict;
use mlx::{self as mx, Array, Dtype, Shape, array, random};

pub fn call(name: &str, _: bool, a: &Args<'_>) -> Option<R<Value>> {
    Some(match name.strip_prefix("random.")? {
        "key" => key(a),
        "split" => split(a),
        "uniform" => uniform(a),
        "normal" => normal(a),
        "randint" => randint(a),
        "bernoulli" => bernoulli(a),
        "categorical" => categorical(a),
        "gumbel" => gumbel(a),
        "laplace" => laplace(a),
        "truncated_normal" => truncated(a),
        "multivariate_normal" => multivariate(a),
        "permutation" => permutation(a),
        _ => return None,
    })
}

fn opt_shape(a: &Args<'_>, i: usize) -> R<Option<Shape>> {
    Ok(a.opt_ints(i, "shape")?.map(Shape::from))
}
fn shape(a: &Args<'_>, i: usize) -> R<Shape> {
    Ok(opt_shape(a, i)?.unwrap_or_default())
}
fn dtype(a: &Args<'_>, i: usize) -> R<Dtype> {
    Ok(a.dtype(i, "dtype")?.unwrap_or(Dtype::Float32))
}
fn operand(a: &Args<'_>, i: usize, name: &str, default: Value) -> R<Value> {
    match a.some(i, name) {
        None => Ok(default),
        Some(v) if v.is_operand() => Ok(v.clone()),
        other => wrong(other),
    }
}

fn key(a: &Args<'_>) -> R<Value> {
    match a.given(0, "seed") {
        Some(Value::Int(seed)) => Ok(random::key(*seed as u64).into()),
        other => wrong(other),
    }
}

fn split(a: &Args<'_>) -> R<Value> {
    Ok(random::split_num(&a.array(0, "key")?, a.int_or(1, "num", 2)?).into())
}

fn uniform(a: &Args<'_>) -> R<Value> {
    let (low, high) = (operand(a, 0, "low", Value::Int(0))?, operand(a, 1, "high", Value::Int(1))?);
    let key = a.opt_array(4, "key")?;
    Ok(random::uniform(low, high, shape(a, 2)?, dtype(a, 3)?, key.as_ref()).into())
}

fn normal(a: &Args<'_>) -> R<Value> {
    let (loc, scale) = (operand(a, 2, "loc", Value::Float(0.0))?, operand(a, 3, "scale", Value::Float(1.0))?);
    let key = a.opt_array(4, "key")?;
    Ok(random::normal(shape(a, 0)?, dtype(a, 1)?, loc, scale, key.as_ref()).into())
}

fn randint(a: &Args<'_>) -> R<Value> {
    let (low, high, key) = (a.operand(0, "low")?, a.operand(1, "high")?, a.opt_array(4, "key")?);
    let dtype = a.dtype(3, "dtype")?.unwrap_or(Dtype::Int32);
    Ok(random::randint(low, high, shape(a, 2)?, dtype, key.as_ref()).into())
}

fn bernoulli(a: &Args<'_>) -> R<Value> {
    let (p, key) = (operand(a, 0, "p", Value::Float(0.5))?, a.opt_array(2, "key")?);
    Ok(random::bernoulli(p, opt_shape(a, 1)?, key.as_ref()).into())
}

fn categorical(a: &Args<'_>) -> R<Value> {
    let (logits, axis, key) = (a.array(0, "logits")?, a.int_or(1, "axis", -1)?, a.opt_array(4, "key")?);
    Ok(match (opt_shape(a, 2)?, a.opt_int(3, "num_samples")?) {
        (Some(_), Some(_)) => return wrong("shape and num_samples"),
        (Some(shape), None) => random::categorical_shape(&logits, axis, shape, key.as_ref()),
        (None, Some(n)) => random::categorical_num(&logits, axis, n, key.as_ref()),
        (None, None) => random::categorical(&logits, axis, key.as_ref()),
    }
    .into())
}

fn gumbel(a: &Args<'_>) -> R<Value> {
    Ok(random::gumbel(shape(a, 0)?, dtype(a, 1)?, a.opt_array(2, "key")?.as_ref()).into())
}

fn laplace(a: &Args<'_>) -> R<Value> {
    let (loc, scale) = (a.float_or(2, "loc", 0.0)? as f32, a.float_or(3, "scale", 1.0)? as f32);
    Ok(random::laplace(shape(a, 0)?, dtype(a, 1)?, loc, scale, a.opt_array(4, "key")?.as_ref()).into())
}

fn truncated(a: &Args<'_>) -> R<Value> {
    let (low, high, key) = (a.operand(0, "lower")?, a.operand(1, "upper")?, a.opt_array(4, "key")?);
    Ok(random::truncated_normal(low, high, opt_shape(a, 2)?, dtype(a, 3)?, key.as_ref()).into())
}

fn multivariate(a: &Args<'_>) -> R<Value> {
    if dtype(a, 3)? != Dtype::Float32 {
        // the Rust function has no dtype: MLX knows float32 only
        return wrong("dtype");
    }
    let (mean, cov, key) = (a.array(0, "mean")?, a.array(1, "cov")?, a.opt_array(4, "key")?);
    Ok(random::multivariate_normal(&mean, &cov, shape(a, 2)?, key.as_ref()).into())
}

fn permutation(a: &Args<'_>) -> R<Value> {
    let key = a.opt_array(2, "key")?;
    Ok(match a.given(0, "x") {
        Some(Value::Array(x)) => random::permutation(x, a.int_or(1, "axis", 0)?, key.as_ref()),
        Some(v) => random::permutation_of(int(v)?, key.as_ref()),
        None => return wrong("x"),
    }
    .into())
}

/// Eight draws after one seed, then the state.
pub fn chain(case: &Case) -> Verdict {
    let (Some(Value::Int(seed)), Some(want), Some(state)) = (case.field("seed"), &case.out, case.field("out_state"))
    else {
        return Verdict::Differ("the record lacks a seed, results or a state".into());
    };
    random::seed(*seed as u64);
    let f32 = Dtype::Float32;
    let draws: Vec<Array> = vec![
        random::uniform(0, 1, [3], f32, None),
        random::normal([2, 2], f32, 0, 1, None),
        random::randint(0, 10, [4], Dtype::Int32, None),
        random::bernoulli(0.5, Some([4].into()), None),
        random::categorical(&array!([[0.0, 1.0]]), -1, None),
        random::permutation_of(5, None),
        random::uniform(0, 1, [2], f32, Some(&random::key(1))),
        random::uniform(0, 1, [2], f32, None),
    ];
    let end = Value::Array(random::state());
    if let Err(e) = mx::eval(&draws) {
        return Verdict::Differ(e.to_string());
    }
    differ(want, &draws.into(), Tolerance::Normal).or_else(|| differ(state, &end, Tolerance::Exact)).into()
}
