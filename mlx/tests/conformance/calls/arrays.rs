//! Making arrays, converting them, reading them; dtypes.

use crate::conformance::args::{Args, R, as_array, float, wrong};
use crate::conformance::data::Value;
use mlx::{self as mx, Arg, Array, Complex32, Dtype, DtypeKind, DtypeOrCategory, Operand, Scalar};

pub fn call(name: &str, method: bool, a: &Args<'_>) -> Option<R<Value>> {
    Some(match name {
        "array" => array(a),
        "asarray" => asarray(a),
        "zeros" | "empty" => filled(a, |s, d| mx::zeros(s, d)),
        "ones" => filled(a, |s, d| mx::ones(s, d)),
        "zeros_like" | "empty_like" => like(a, mx::zeros_like, |s, d| mx::zeros(s, d)),
        "ones_like" => like(a, mx::ones_like, |s, d| mx::ones(s, d)),
        "full" => full(a),
        "full_like" => full_like(a),
        "arange" => arange(a),
        "linspace" => linspace(a),
        "eye" => eye(a),
        "identity" => identity(a),
        "tri" => tri(a),
        "bartlett" => window(a, mx::bartlett),
        "blackman" => window(a, mx::blackman),
        "hamming" => window(a, mx::hamming),
        "hanning" => window(a, mx::hanning),
        "astype" => convert(a, mx::astype),
        "view" => convert(a, mx::view),
        "contiguous" => contiguous(a),
        "item" if method => a.array(0, "self").and_then(|x| item(&x)),
        "tolist" if method => a.array(0, "self").and_then(|x| tolist(&x)),
        "array.__bool__" => scalar(a, |c, _| Ok(Value::Bool(c != Complex32::new(0.0, 0.0)))),
        "array.__int__" => scalar(a, |_, v| number(v, |f| Ok(Value::Int(f.trunc() as i128)))),
        "array.__float__" => scalar(a, |_, v| number(v, |f| Ok(Value::Float(f)))),
        "array.__complex__" => scalar(a, |c, _| Ok(Value::Complex(c))),
        "array.__len__" => length(a),
        "array.__repr__" => a.array(0, "self").map(|x| Value::Str(x.to_string())),
        "result_type" => result_type(a),
        "can_cast" => can_cast(a),
        "isdtype" => isdtype(a),
        "issubdtype" => issubdtype(a),
        _ => return None,
    })
}

fn array(a: &Args<'_>) -> R<Value> {
    a.given(0, "val").map_or_else(|| wrong("val"), |v| Ok(nested(v, a.dtype(1, "dtype")?)?.into()))
}

fn asarray(a: &Args<'_>) -> R<Value> {
    let (Some(v), dtype) = (a.given(0, "a"), a.dtype(1, "dtype")?) else { return wrong("a") };
    // Python's way to insist on a view: nothing that the Rust function could promise
    let same = matches!((v, dtype), (Value::Array(x), d) if d.is_none_or(|d| d == x.dtype()));
    if matches!(a.some(9, "copy"), Some(Value::Bool(false))) && !same {
        return wrong("copy");
    }
    Ok(nested(v, dtype)?.into())
}

/// An array from a number, an array, or nested lists of them, as Python's constructor types it.
pub fn nested(v: &Value, dtype: Option<Dtype>) -> R<Array> {
    let built = match v.items() {
        None => match (v.is_operand(), dtype) {
            (false, _) => return wrong(v),
            (_, Some(d)) if !matches!(v, Value::Array(_)) => match v.arg() {
                Arg::Scalar(s) => Array::scalar(s, d),
                Arg::Array(x) => x.clone(),
            },
            _ => mx::asarray(v),
        },
        Some([]) => mx::zeros([0], dtype.unwrap_or(Dtype::Float32)),
        Some(list) => {
            let has_arrays = !v.arrays().is_empty();
            let inner = if has_arrays { dtype } else { Some(dtype.unwrap_or(kind(v)?)) };
            let rows: Vec<Array> = list.iter().map(|v| nested(v, inner)).collect::<R<_>>()?;
            if rows.iter().any(|r| r.shape() != rows[0].shape()) {
                return wrong("rows of different shapes");
            }
            mx::stack(&rows, 0)
        }
    };
    Ok(dtype.map_or(built.clone(), |d| mx::with_device(mx::Device::Cpu, || built.astype(d))))
}

/// The dtype that holds all numbers in a list.
fn kind(v: &Value) -> R<Dtype> {
    match v.items() {
        Some([]) => Ok(Dtype::Float32),
        Some(list) => {
            let all: Vec<Dtype> = list.iter().map(kind).collect::<R<_>>()?;
            Ok(mx::result_type(&all))
        }
        None if v.is_operand() => Ok(mx::asarray(v).dtype()),
        None => wrong(v),
    }
}

fn filled(a: &Args<'_>, f: fn(Vec<i32>, Dtype) -> Array) -> R<Value> {
    Ok(f(a.ints(0, "shape")?, a.dtype(1, "dtype")?.unwrap_or(Dtype::Float32)).into())
}

fn like(a: &Args<'_>, f: fn(&Array) -> Array, typed: fn(&[i32], Dtype) -> Array) -> R<Value> {
    let x = a.array(0, "a")?;
    Ok(a.dtype(1, "dtype")?.map_or_else(|| f(&x), |d| typed(x.shape(), d)).into())
}

fn full(a: &Args<'_>) -> R<Value> {
    Ok(mx::full(a.ints(0, "shape")?, a.operand(1, "vals")?, a.dtype(2, "dtype")?).into())
}

fn full_like(a: &Args<'_>) -> R<Value> {
    Ok(mx::full_like(&a.array(0, "a")?, a.operand(1, "vals")?, a.dtype(2, "dtype")?).into())
}

fn plain(v: &Value) -> R<Scalar> {
    match v.is_operand().then(|| v.arg()) {
        Some(Arg::Scalar(s)) => Ok(s),
        _ => wrong(v),
    }
}

fn arange(a: &Args<'_>) -> R<Value> {
    let (mut start, mut stop) = (a.some(0, "start").or(a.some(9, "stop")), a.some(1, "stop"));
    let (zero, one) = (Value::Int(0), Value::Int(1));
    if stop.is_none() || a.some(0, "start").is_none() {
        (start, stop) = (Some(&zero), start);
    }
    let (Some(start), Some(stop)) = (start, stop) else { return wrong("stop") };
    let step = a.some(2, "step").unwrap_or(&one);
    Ok(mx::arange(plain(start)?, plain(stop)?, plain(step)?, a.dtype(3, "dtype")?).into())
}

fn linspace(a: &Args<'_>) -> R<Value> {
    let (Some(start), Some(stop)) = (a.some(0, "start"), a.some(1, "stop")) else { return wrong("ends") };
    let f = if a.bool_or(3, "endpoint", true)? { mx::linspace } else { mx::linspace_open };
    let dtype = a.dtype(4, "dtype")?.unwrap_or(Dtype::Float32);
    Ok(f(float(start)?, float(stop)?, a.int_or(2, "num", 50)?, dtype).into())
}

fn eye(a: &Args<'_>) -> R<Value> {
    let dtype = a.dtype(3, "dtype")?.unwrap_or(Dtype::Float32);
    Ok(mx::eye(a.int(0, "n")?, a.opt_int(1, "m")?, a.int_or(2, "k", 0)?, dtype).into())
}

fn identity(a: &Args<'_>) -> R<Value> {
    Ok(mx::identity(a.int(0, "n")?, a.dtype(1, "dtype")?.unwrap_or(Dtype::Float32)).into())
}

fn tri(a: &Args<'_>) -> R<Value> {
    let dtype = a.dtype(3, "dtype")?.unwrap_or(Dtype::Float32);
    Ok(mx::tri(a.int(0, "n")?, a.opt_int(1, "m")?, a.int_or(2, "k", 0)?, dtype).into())
}

fn window(a: &Args<'_>, f: fn(i32) -> Array) -> R<Value> {
    Ok(f(a.int(0, "M")?).into())
}

fn convert(a: &Args<'_>, f: fn(&Array, Dtype) -> Array) -> R<Value> {
    match a.dtype(1, "dtype")? {
        Some(d) => Ok(f(&a.array(0, "a")?, d).into()),
        None => wrong("dtype"),
    }
}

fn contiguous(a: &Args<'_>) -> R<Value> {
    let f = if a.bool_or(1, "allow_col_major", false)? { mx::contiguous_either } else { mx::contiguous };
    Ok(f(&a.array(0, "a")?).into())
}

/// The number in an array of one element, as Python's `item` gives it.
fn item(x: &Array) -> R<Value> {
    Ok(match x.dtype() {
        Dtype::Bool => Value::Bool(x.item()?),
        Dtype::Complex64 => Value::Complex(x.item()?),
        Dtype::Uint64 => Value::Int(x.item::<u64>()?.into()),
        d if d.is_integer() => Value::Int(x.item::<i64>()?.into()),
        _ => Value::Float(x.item::<f64>()?),
    })
}

fn tolist(x: &Array) -> R<Value> {
    if x.ndim() == 0 {
        return item(x);
    }
    Ok(Value::List(mx::unstack(x, 0).iter().map(tolist).collect::<R<_>>()?))
}

fn scalar(a: &Args<'_>, f: fn(Complex32, Value) -> R<Value>) -> R<Value> {
    let x = a.array(0, "self")?;
    f(x.item::<Complex32>()?, item(&x)?)
}

fn number(v: Value, f: fn(f64) -> R<Value>) -> R<Value> {
    float(&v).and_then(f)
}

fn length(a: &Args<'_>) -> R<Value> {
    match a.array(0, "self")?.shape() {
        [] => wrong("no axes"),
        [n, ..] => Ok(Value::Int((*n).into())),
    }
}

fn dtype_of(v: &Value) -> R<Dtype> {
    match v {
        Value::Dtype(d) => Ok(*d),
        v => Ok(as_array(v)?.dtype()),
    }
}

fn result_type(a: &Args<'_>) -> R<Value> {
    let all: Vec<Dtype> = a.pos.iter().map(dtype_of).collect::<R<_>>()?;
    Ok(mx::result_type(&all).into())
}

fn can_cast(a: &Args<'_>) -> R<Value> {
    match (a.given(0, "from_").map(dtype_of), a.dtype(1, "to")?) {
        (Some(from), Some(to)) => Ok(mx::can_cast(from?, to).into()),
        other => wrong(other),
    }
}

fn isdtype(a: &Args<'_>) -> R<Value> {
    let kind = |v: &Value| match v {
        Value::Dtype(d) => Ok(DtypeKind::Dtype(*d)),
        Value::Str(s) => DtypeKind::from_name(s).map_or_else(|| wrong(s), Ok),
        other => wrong(other),
    };
    let (Some(dtype), Some(kinds)) = (a.dtype(0, "dtype")?, a.given(1, "kind")) else { return wrong("dtype") };
    let kinds: Vec<DtypeKind> = match kinds.items() {
        Some(v) => v.iter().map(kind).collect::<R<_>>()?,
        None => vec![kind(kinds)?],
    };
    Ok(mx::isdtype(dtype, &kinds).into())
}

fn issubdtype(a: &Args<'_>) -> R<Value> {
    let either = |v: Option<&Value>| match v {
        Some(Value::Dtype(d)) => Ok(DtypeOrCategory::Dtype(*d)),
        Some(Value::Category(c)) => Ok(DtypeOrCategory::Category(*c)),
        other => wrong(other),
    };
    Ok(mx::issubdtype(either(a.given(0, "arg1"))?, either(a.given(1, "arg2"))?).into())
}
