//! Element-wise functions and the operators.

use crate::conformance::args::{Args, R, wrong};
use crate::conformance::data::Value;
use mlx::{self as mx, Array};

macro_rules! table {
    ($name:expr, $($f:ident)*) => { match $name { $( stringify!($f) => Some((|x| mx::$f(x)) as fn(&Value) -> Array), )* _ => None } };
}
macro_rules! table2 {
    ($name:expr, $($f:ident)*) => {
        match $name { $( stringify!($f) => Some((|x, y| mx::$f(x, y)) as fn(&Value, &Value) -> Array), )* _ => None }
    };
}

fn unary(name: &str) -> Option<fn(&Value) -> Array> {
    table!(name, abs acos acosh arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh bitwise_invert ceil
        conj conjugate cos cosh degrees erf erfinv exp expm1 floor imag isfinite isinf isnan isneginf isposinf log log10
        log1p log2 logical_not negative positive radians real reciprocal rsqrt sigmoid sign sin sinh sqrt square
        stop_gradient tan tanh trunc)
}

fn binary(name: &str) -> Option<fn(&Value, &Value) -> Array> {
    table2!(name, add arctan2 atan2 bitwise_and bitwise_or bitwise_xor divide equal floor_divide greater greater_equal
        left_shift less less_equal logaddexp logical_and logical_or logical_xor maximum minimum multiply not_equal pow
        power remainder right_shift subtract bitwise_left_shift bitwise_right_shift)
}

pub fn call(name: &str, _: bool, a: &Args<'_>) -> Option<R<Value>> {
    if let Some(f) = unary(name) {
        return Some(a.operand(0, "a").map(|x| f(x).into()));
    }
    if let Some(f) = binary(name) {
        return Some(both(a).map(|(x, y)| f(x, y).into()));
    }
    if let Some(operator) = name.strip_prefix("array.__").and_then(|n| n.strip_suffix("__")) {
        return self::operator(operator, a);
    }
    Some(match name {
        "divmod" => both(a).map(|(x, y)| mx::divmod(x, y).into()),
        "round" => round(a),
        "clip" => clip(a),
        "where" => choose(a),
        "nan_to_num" => nan_to_num(a),
        "isclose" | "allclose" => close(name, a),
        "array_equal" => equal(a),
        _ => return None,
    })
}

fn both<'a>(a: &Args<'a>) -> R<(&'a Value, &'a Value)> {
    Ok((a.operand(0, "a")?, a.operand(1, "b")?))
}

fn round(a: &Args<'_>) -> R<Value> {
    Ok(mx::round(a.operand(0, "a")?, a.int_or(1, "decimals", 0)?).into())
}

fn clip(a: &Args<'_>) -> R<Value> {
    let bound = |i, name| match a.some(i, name) {
        Some(v) if !v.is_operand() => wrong(v),
        v => Ok(v),
    };
    Ok(mx::clip(a.operand(0, "a")?, bound(1, "a_min")?, bound(2, "a_max")?).into())
}

fn choose(a: &Args<'_>) -> R<Value> {
    Ok(mx::where_(a.operand(0, "condition")?, a.operand(1, "x")?, a.operand(2, "y")?).into())
}

fn nan_to_num(a: &Args<'_>) -> R<Value> {
    let limit = |i, name| a.opt_float(i, name).map(|v| v.map(|v| v as f32));
    let nan = a.float_or(1, "nan", 0.0)? as f32;
    Ok(mx::nan_to_num(a.operand(0, "a")?, nan, limit(2, "posinf")?, limit(3, "neginf")?).into())
}

fn close(name: &str, a: &Args<'_>) -> R<Value> {
    let (x, y) = both(a)?;
    let (r, t) = (a.float_or(2, "rtol", 1e-5)?, a.float_or(3, "atol", 1e-8)?);
    let nan = a.bool_or(9, "equal_nan", false)?;
    Ok(if name == "isclose" { mx::isclose(x, y, r, t, nan) } else { mx::allclose(x, y, r, t, nan) }.into())
}

fn equal(a: &Args<'_>) -> R<Value> {
    let (x, y) = both(a)?;
    Ok(mx::array_equal(x, y, a.bool_or(2, "equal_nan", false)?).into())
}

/// `x + y`, `y + x` for the reflected ones, `x += y` for the in-place ones.
fn operator(name: &str, a: &Args<'_>) -> Option<R<Value>> {
    let Ok(x) = a.array(0, "self") else { return Some(wrong(a.pos)) };
    let other = a.pos.get(1);
    // Python compares with anything, and nothing else is equal to an array
    if let ("eq" | "ne", Some(v)) = (name, other)
        && !v.is_operand()
    {
        return Some(Ok(Value::Bool(name == "ne")));
    }
    let value = match (name, other) {
        ("neg", None) => -&x,
        ("invert", None) => !&x,
        ("abs", None) => x.abs(),
        (_, None) => return None,
        (_, Some(v)) if !v.is_operand() => return Some(wrong(v)),
        (_, Some(v)) => {
            if let Some(in_place) = in_place(name, &x, v) {
                return Some(in_place.map(Value::from));
            }
            match name {
                "add" => &x + v,
                "sub" => &x - v,
                "mul" => &x * v,
                "truediv" | "div" => &x / v,
                "floordiv" => x.floor_divide(v),
                "mod" => &x % v,
                "pow" => x.pow(v),
                "and" => &x & v,
                "or" => &x | v,
                "xor" => &x ^ v,
                "lshift" => &x << v,
                "rshift" => &x >> v,
                "eq" => x.eq(v),
                "ne" => x.ne(v),
                "lt" => x.lt(v),
                "le" => x.le(v),
                "gt" => x.gt(v),
                "ge" => x.ge(v),
                "radd" => mx::add(v, &x),
                "rsub" => mx::subtract(v, &x),
                "rmul" => mx::multiply(v, &x),
                "rtruediv" | "rdiv" => mx::divide(v, &x),
                "rfloordiv" => mx::floor_divide(v, &x),
                "rmod" => mx::remainder(v, &x),
                "rpow" => mx::power(v, &x),
                "matmul" | "imatmul" => match v {
                    Value::Array(y) => x.matmul(y),
                    other => return Some(wrong(other)),
                },
                // Python arrays have no reflected bit operators
                "rand" | "ror" | "rxor" | "rlshift" | "rrshift" => return Some(wrong(name)),
                _ => return None,
            }
        }
    };
    Some(Ok(value.into()))
}

fn in_place(name: &str, x: &Array, v: &Value) -> Option<R<Array>> {
    let mut x = x.clone();
    match name {
        "iadd" => x += v,
        "isub" => x -= v,
        "imul" => x *= v,
        "itruediv" => x /= v,
        "ifloordiv" => x = x.floor_divide(v),
        "imod" => x %= v,
        "ipow" => x = x.pow(v),
        "iand" => x &= v,
        "ior" => x |= v,
        "ixor" => x ^= v,
        "ilshift" => x <<= v,
        "irshift" => x >>= v,
        _ => return None,
    }
    Some(Ok(x))
}
