//! The tables of result dtypes: each function with operands of each dtype and each kind of number.

use super::args::{Args, Fail, R};
use super::calls;
use super::data::{Case, Value};
use super::verdict::Verdict;
use mlx::{self as mx, Complex32, Dtype, array};
use std::collections::BTreeMap;

/// An array of the named dtype filled with `v` (1 for bool), or the Python number.
fn operand(name: &str, shape: &[i32], v: i32) -> Option<Value> {
    Some(match name {
        "py_bool" => Value::Bool(true),
        "py_int" => Value::Int(2),
        "py_float" => Value::Float(2.5),
        "py_complex" => Value::Complex(Complex32::new(1.0, 2.0)),
        name => {
            let dtype = Dtype::from_name(name)?;
            let v = if dtype == Dtype::Bool { 1 } else { v };
            mx::with_device(mx::Device::Cpu, || mx::full(shape, v, None).astype(dtype)).into()
        }
    })
}

/// What a result is called in the tables.
fn outcome(got: R<Value>) -> R<String> {
    let value = got?;
    mx::eval(value.arrays()).map_err(Fail::Eval)?;
    Ok(describe(&value))
}

fn describe(v: &Value) -> String {
    match v {
        Value::Array(a) => a.dtype().to_string(),
        Value::Dtype(d) => d.to_string(),
        Value::Bool(_) => "py_bool".into(),
        Value::Int(_) => "py_int".into(),
        Value::Float(_) => "py_float".into(),
        Value::Complex(_) => "py_complex".into(),
        v => v.items().map_or(format!("{v:?}"), |v| v.iter().map(describe).collect::<Vec<_>>().join(" ")),
    }
}

fn call(name: &str, pos: &[Value], kw: &[(&str, Value)]) -> R<Value> {
    let kw: BTreeMap<String, Value> = kw.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    calls::call(name, &Args { pos, kw: &kw })
}

/// The call of a row with both operands.
fn binary(row: &str, lhs: &str, rhs: &str) -> Option<R<Value>> {
    let name = row.strip_prefix("dtypes:")?;
    let matrices = ["matmul", "inner", "kron", "tensordot", "vecdot", "addmm"];
    let shape: &[i32] = match name {
        n if matrices.iter().any(|m| n.contains(m)) => &[2, 2],
        "mx.outer" => &[2],
        _ => &[1],
    };
    let (a, b) = (operand(lhs, shape, 2)?, operand(rhs, shape, 2)?);
    let zero = Value::Int(0);
    let dtype = |v: &Value| v.arrays().first().map_or(Value::Null, |a| Value::Dtype(a.dtype()));
    Some(match name {
        "mx.where(cond,a,b)" => call("mx.where", &[array!([true]).into(), a, b], &[]),
        "mx.concatenate([a,b])" => call("mx.concatenate", &[Value::List(vec![a, b])], &[]),
        "mx.stack([a,b])" => call("mx.stack", &[Value::List(vec![a, b])], &[]),
        "mx.clip(a,b,None)" => call("mx.clip", &[a, b, Value::Null], &[]),
        "mx.full((1,),b,dtype of a)" => call("mx.full", &[Value::Tuple(vec![Value::Int(1)]), b, dtype(&a)], &[]),
        "mx.full_like(a,b)" => call("mx.full_like", &[a, b], &[]),
        "mx.addmm(c=a,x=b,y=b)" => call("mx.addmm", &[a, b.clone(), b], &[]),
        "mx.take(a,b)" => call("mx.take", &[operand(lhs, &[4], 2)?, b], &[]),
        "mx.tensordot" => call(name, &[a, b, Value::Int(1)], &[]),
        "array.__setitem__(0,b)" => call("array.__setitem__", &[a, zero, b], &[]),
        _ => match name.strip_prefix("array.at[0].") {
            Some(f) => call(&format!("array.at.{f}"), &[a, zero, b], &[]),
            None => call(name, &[a, b], &[]),
        },
    })
}

/// The call of a row with one operand.
fn unary(row: &str, of: &str) -> Option<R<Value>> {
    let name = row.strip_prefix("dtypes:")?;
    let a = operand(of, &[2], 1)?;
    let one = Value::Int(1);
    let dtype = a.arrays().first().map_or(Value::Null, |a| Value::Dtype(a.dtype()));
    Some(match name {
        "mx.fft.irfft" => call(name, &[a, Value::Int(2)], &[]),
        "mx.fast.rms_norm" => call(name, &[a, Value::Null, Value::Float(1e-5)], &[]),
        "mx.fast.layer_norm" => call(name, &[a, Value::Null, Value::Null, Value::Float(1e-5)], &[]),
        "mx.topk" => call(name, &[a, one], &[]),
        "mx.partition" => call(name, &[a, Value::Int(0)], &[]),
        "mx.trace(2x2)" => call("mx.trace", &[operand(of, &[2, 2], 1)?], &[]),
        "mx.softmax(precise)" => call("mx.softmax", &[a], &[("precise", Value::Bool(true))]),
        "mx.random.normal(dtype)" => call("mx.random.normal", &[Value::Tuple(vec![Value::Int(2)]), dtype], &[]),
        "mx.random.uniform(dtype)" => {
            call("mx.random.uniform", &[], &[("shape", Value::Tuple(vec![Value::Int(2)])), ("dtype", dtype)])
        }
        "mx.random.randint(0,9,dtype)" => {
            let shape = Value::Tuple(vec![Value::Int(2)]);
            call("mx.random.randint", &[Value::Int(0), Value::Int(9), shape, dtype], &[])
        }
        "mx.arange(4,dtype)" => call("mx.arange", &[Value::Int(4)], &[("dtype", dtype)]),
        "mx.linspace(0,1,3,dtype)" => call("mx.linspace", &[Value::Int(0), one, Value::Int(3)], &[("dtype", dtype)]),
        "array.item" => call(name, &[operand(of, &[], 1)?], &[]),
        "array.tolist" => {
            call(name, &[operand(of, &[1], 1)?], &[]).map(|v| v.items().map_or(Value::Null, |v| v[0].clone()))
        }
        _ => call(name, &[a], &[]),
    })
}

/// The calls of the literal rows, read as Python writes them.
fn literal(expr: &str) -> Option<R<Value>> {
    let (name, rest) = expr.strip_suffix(')')?.split_once('(')?;
    let named = |text: &str| {
        Some(match text {
            "f32" => operand("float32", &[3], 1)?,
            "i32" => operand("int32", &[2], 1)?,
            "f16" => operand("float16", &[1], 2)?,
            "f16 array" => operand("float16", &[], 1)?,
            _ => return None,
        })
    };
    // an index of two equal vectors stands for both arguments of meshgrid
    let twice = name == "mx.meshgrid";
    let mut args = python::parse(rest, &named)?;
    if twice {
        args.extend(args.clone());
    }
    if name == "mx.array"
        && let Some(Value::List(v)) = args.first_mut()
        && v.len() == 2
        && matches!(&v[..], [Value::Array(a), Value::Array(b)] if (a.dtype(), b.dtype()) == (Dtype::Float16, Dtype::Int32))
    {
        v[1] = operand("int32", &[1], 2)?;
    }
    Some(call(name, &args, &[]))
}

/// Checks one row of a table.
pub fn check(case: &Case) -> Verdict {
    if case.name == "dtypes:literal" {
        let (Some(Value::Str(expr)), Some(want)) = (case.field("expr"), &case.out) else {
            return Verdict::Differ("a literal row has an expression and a result".into());
        };
        return match literal(expr) {
            Some(got) => compare(expr, want, got).into(),
            None => Verdict::Differ(format!("cannot read {expr}")),
        };
    }
    let Some(Value::Dict(columns)) = &case.out else { return Verdict::Differ("a table row has columns".into()) };
    let wrong: Vec<String> = columns
        .iter()
        .filter_map(|(column, want)| {
            let got = match case.field("lhs") {
                Some(Value::Str(lhs)) => mx::catch(|| binary(&case.name, lhs, column)),
                _ => mx::catch(|| unary(&case.name, column)),
            };
            match got {
                Ok(Some(got)) => compare(column, want, got),
                Ok(None) => Some(format!("{column}: cannot make the operand")),
                Err(e) => compare(column, want, Err(e.into())),
            }
        })
        .collect();
    (!wrong.is_empty()).then(|| wrong.join("; ")).into()
}

fn compare(column: &str, want: &Value, got: R<Value>) -> Option<String> {
    let want = match want {
        Value::Str(s) => s.clone(),
        v => v
            .items()?
            .iter()
            .map(|v| if let Value::Str(s) = v { s.clone() } else { String::new() })
            .collect::<Vec<_>>()
            .join(" "),
    };
    match outcome(got) {
        // attributes that Python lacks and signatures that it refuses are compile errors in Rust
        _ if want == "error AttributeError" || want == "error TypeError" => None,
        Err(Fail::Unknown) => Some(format!("{column}: no Rust call")),
        Err(_) if want.starts_with("error") => None,
        Err(e) => Some(format!("{column}: failed {e}, not {want}")),
        Ok(found) if found == want => None,
        Ok(found) => Some(format!("{column}: {found}, not {want}")),
    }
}

/// The little of Python's syntax that the literal rows use.
mod python {
    use super::Value;
    use mlx::Complex32;

    /// Values separated by commas, to the end of `text`.
    pub fn parse(text: &str, named: &dyn Fn(&str) -> Option<Value>) -> Option<Vec<Value>> {
        split(text).into_iter().map(|t| value(t.trim(), named)).collect()
    }

    /// Cuts at the commas outside of brackets.
    fn split(text: &str) -> Vec<&str> {
        let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
        for (i, c) in text.char_indices() {
            match c {
                '[' | '(' => depth += 1,
                ']' | ')' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(&text[from..i]);
                    from = i + 1;
                }
                _ => {}
            }
        }
        parts.push(&text[from..]);
        parts.retain(|t| !t.trim().is_empty());
        parts
    }

    fn value(text: &str, named: &dyn Fn(&str) -> Option<Value>) -> Option<Value> {
        let inside = |open, close| text.strip_prefix(open)?.strip_suffix(close);
        if let Some(t) = inside('[', ']') {
            return parse(t, named).map(Value::List);
        }
        if let Some(t) = inside('(', ')') {
            return parse(t, named).map(Value::Tuple);
        }
        match text {
            "True" => return Some(Value::Bool(true)),
            "False" => return Some(Value::Bool(false)),
            _ => {}
        }
        if let Some(v) = named(text) {
            return Some(v);
        }
        if let Some(t) = text.strip_suffix('j') {
            let at = t.rfind('+').map_or(0, |i| i + 1);
            let re = if at == 0 { 0.0 } else { t[..at - 1].parse().ok()? };
            return Some(Value::Complex(Complex32::new(re, t[at..].parse().ok()?)));
        }
        // sums and powers of whole numbers: 2**31, -2**31-1
        if text.contains("**") {
            let (head, tail) = text.rsplit_once("**")?;
            let (exponent, minus) = tail.split_once('-').unwrap_or((tail, "0"));
            let (sign, base) = head.strip_prefix('-').map_or((1, head), |b| (-1, b));
            let power = base.parse::<i128>().ok()?.pow(exponent.parse().ok()?);
            return Some(Value::Int(sign * power - minus.parse::<i128>().ok()?));
        }
        text.parse().map(Value::Int).or_else(|_| text.parse().map(Value::Float)).ok()
    }
}
