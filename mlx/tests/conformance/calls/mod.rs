//! From recorded names to Rust calls: general in the arguments, never keyed on records.

pub mod arrays;
mod elementwise;
mod index;
mod products;
mod quantized;
mod random;
mod reduce;
mod shape;
mod spectral;

use super::args::{Args, Fail, R};
use super::compare::{self, Tolerance};
use super::data::{Case, Value};
use super::factors;
use super::verdict::Verdict;

/// Runs the Rust form of `name`.
pub fn call(name: &str, a: &Args<'_>) -> R<Value> {
    // methods are functions of their first argument
    let plain = match name.strip_prefix("array.") {
        Some(m) if !m.starts_with("__") && !m.starts_with("at.") => m,
        _ => name.strip_prefix("mx.").unwrap_or(name),
    };
    let method = name.starts_with("array.");
    let groups = [
        index::call,
        arrays::call,
        elementwise::call,
        reduce::call,
        shape::call,
        products::call,
        quantized::call,
        random::call,
        spectral::call,
    ];
    let run = || groups.iter().find_map(|f| f(plain, method, a)).unwrap_or(Err(Fail::Unknown));
    mlx::catch(run)?
}

/// Calls and evaluates.
pub fn run(case: &Case) -> R<Value> {
    if let Some(Value::Int(seed)) = case.field("seed") {
        mlx::random::seed(*seed as u64);
    }
    let value = call(&case.name, &Args { pos: &case.args, kw: &case.kwargs })?;
    match mlx::eval(value.arrays()) {
        Ok(()) => Ok(value),
        Err(e) => Err(Fail::Eval(e)),
    }
}

/// Runs one record of an area of single calls.
pub fn check(case: &Case) -> Verdict {
    if case.name == "chain" {
        return random::chain(case);
    }
    let got = run(case);
    if let (Some(want), Ok(got)) = (&case.out, &got)
        && let Some(verdict) = factors::check(case, want, got)
    {
        return verdict;
    }
    judge(case, got, tolerance(case))
}

/// Compares an outcome with the record.
pub fn judge(case: &Case, got: R<Value>, t: Tolerance) -> Verdict {
    match (&case.error, &case.out, got) {
        (_, _, Err(Fail::Unknown)) => Verdict::Differ("no Rust call for this name".into()),
        (Some(e), _, _) if e.signature => Verdict::Skip,
        (Some(e), _, Ok(got)) => Verdict::Differ(format!("gave {got:?} instead of failing: {}", e.message)),
        // refused earlier than Python is fine, accepted longer is not
        (Some(e), _, Err(Fail::Eval(found))) if !e.at_eval => {
            Verdict::Differ(format!("failed in evaluation only ({found}), not at the call: {}", e.message))
        }
        (Some(_), _, Err(_)) => Verdict::Agree,
        (None, Some(want), Ok(got)) => compare::differ(want, &got, t).into(),
        (None, _, Err(e)) => Verdict::Differ(format!("failed {e}")),
        (None, None, Ok(_)) => Verdict::Differ("the record has no result".into()),
    }
}

/// How close the results of a call have to be.
pub fn tolerance(case: &Case) -> Tolerance {
    let plain = case.name.trim_start_matches("mx.").trim_start_matches("array.");
    let products = [
        "matmul",
        "mm",
        "inner",
        "outer",
        "tensordot",
        "einsum",
        "kron",
        "vecdot",
        "conv",
        "hadamard",
        "attention",
        "linalg.",
        "fft.",
        "multivariate",
        "norm",
    ];
    let exact = ["random.uniform", "random.bits", "random.key", "random.split"];
    if exact.iter().any(|n| plain.starts_with(n)) {
        return Tolerance::Exact;
    }
    let size = |v: &Value| v.arrays().iter().map(mlx::Array::size).max().unwrap_or(0);
    let sums = case.args.iter().map(size).max().unwrap_or(0) > 64 * case.out.as_ref().map_or(1, size).max(1);
    let on_gpu = mlx::default_device() != mlx::Device::Cpu;
    if on_gpu || sums || products.iter().any(|n| plain.contains(n)) { Tolerance::Loose } else { Tolerance::Normal }
}
