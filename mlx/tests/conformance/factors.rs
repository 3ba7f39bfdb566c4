//! Results that are not unique: eigenvectors, singular vectors, Q and R, the order of partitions.

use super::compare::{Tolerance, arrays, complex, floats, number};
use super::data::{Case, Value};
use super::verdict::Verdict;
use mlx::{self as mx, Array, Complex32, Dtype};

/// A verdict of its own for calls whose results have freedom; `None` for all others.
pub fn check(case: &Case, want: &Value, got: &Value) -> Option<Verdict> {
    let Some(Value::Array(a)) = case.args.first() else { return None };
    if a.size() == 0 {
        return None;
    }
    let difference = match (case.name.as_str(), want.items(), got.items()) {
        ("mx.linalg.cholesky", _, _) => {
            both(std::slice::from_ref(want), std::slice::from_ref(got)).and_then(|v| cholesky(a, &v, case))
        }
        ("mx.linalg.qr", Some(w), Some(g)) => both(w, g).and_then(|v| qr(a, &v)),
        ("mx.linalg.svd", Some(w), Some(g)) => both(w, g).and_then(|v| svd(a, &v)),
        ("mx.linalg.eigh", Some(w), Some(g)) => both(w, g).and_then(|v| eigh(a, &v, case)),
        ("mx.linalg.eig", Some(w), Some(g)) => both(w, g).and_then(|v| eig(a, &v)),
        ("mx.linalg.eigvals", _, _) => both(std::slice::from_ref(want), std::slice::from_ref(got)).and_then(|v| {
            shapes(&v)?;
            spectrum(&v[0].0, &v[0].1)
        }),
        ("mx.quantized_matmul" | "mx.gather_qmm", _, _) => {
            both(std::slice::from_ref(want), std::slice::from_ref(got)).and_then(|v| quantized(case, &v))
        }
        ("mx.partition" | "mx.argpartition" | "mx.topk", _, _) => partition(case, a, want, got),
        _ => return None,
    };
    Some(difference.err().into())
}

type Check = Result<(), String>;

fn both(w: &[Value], g: &[Value]) -> Result<Vec<(Array, Array)>, String> {
    if w.len() != g.len() {
        return Err(format!("{} results, not {}", g.len(), w.len()));
    }
    w.iter()
        .zip(g)
        .map(|p| match p {
            (Value::Array(w), Value::Array(g)) => Ok((w.clone(), g.clone())),
            other => Err(format!("{other:?}")),
        })
        .collect()
}

fn shapes(v: &[(Array, Array)]) -> Check {
    match v.iter().find(|(w, g)| (w.shape(), w.dtype()) != (g.shape(), g.dtype())) {
        Some((w, g)) => Err(format!("{g:?}, not {w:?}")),
        None => Ok(()),
    }
}

fn agree(what: &str, want: &Array, got: &Array) -> Check {
    arrays(want, &mx::with_device(mx::Device::Cpu, || got.astype(want.dtype())), Tolerance::Loose)
        .map_or(Ok(()), |d| Err(format!("{what}: {d}")))
}

/// A conjugate transpose.
fn adjoint(a: &Array) -> Array {
    a.conjugate().swapaxes(-1, -2)
}

fn identity(q: &Array) -> Check {
    let got = adjoint(q).matmul(q);
    let n = got.dim(-1);
    let eye = mx::broadcast_to(&mx::eye(n, None, 0, Dtype::Float32).astype(got.dtype()), got.shape());
    agree("orthogonality", &eye, &got)
}

/// The recorded factor, or (a matrix that is nearly singular decides it by rounding) another one of the same matrix.
fn cholesky(a: &Array, v: &[(Array, Array)], case: &Case) -> Check {
    shapes(v)?;
    let (want, got) = &v[0];
    if arrays(want, got, Tolerance::Loose).is_none() {
        return Ok(());
    }
    let upper = case.args.get(1).or(case.kwargs.get("upper"));
    let l = if matches!(upper, Some(Value::Bool(true))) { adjoint(got) } else { got.clone() };
    agree("L", &mx::tril(&l, 0), &l)?;
    agree("L L^T", a, &l.matmul(&adjoint(&l)))
}

/// The recorded product, or (Python's CPU sums bfloat16 in bfloat16) one that is nearer to that of float32 operands.
fn quantized(case: &Case, v: &[(Array, Array)]) -> Check {
    shapes(v)?;
    let (want, got) = &v[0];
    let t = super::calls::tolerance(case);
    let Some(difference) = arrays(want, got, t).filter(|_| want.dtype() == Dtype::Bfloat16) else {
        return arrays(want, got, t).map_or(Ok(()), Err);
    };
    let wide = |v: &Value| match v {
        Value::Array(a) if a.dtype().is_float() => Value::Array(a.astype(Dtype::Float32)),
        v => v.clone(),
    };
    let args: Vec<Value> = case.args.iter().map(wide).collect();
    let exact = super::calls::call(&case.name, &super::args::Args { pos: &args, kw: &case.kwargs });
    let Ok(Value::Array(exact)) = exact else { return Err(difference) };
    let off = |a: &Array| floats(&(a.astype(Dtype::Float32) - &exact).abs()).into_iter().fold(0.0, f64::max);
    if off(got) <= off(want) { Ok(()) } else { Err(difference) }
}

fn qr(a: &Array, v: &[(Array, Array)]) -> Check {
    shapes(v)?;
    let (q, r) = (&v[0].1, &v[1].1);
    agree("Q R", a, &q.matmul(r))?;
    agree("R", &mx::triu(r, 0), r)?;
    identity(q)
}

fn svd(a: &Array, v: &[(Array, Array)]) -> Check {
    shapes(v)?;
    let [(_, u), (want, s), (_, vt)] = v else { return Err("three results expected".into()) };
    agree("S", want, s)?;
    let k = s.dim(-1);
    let left = u.i((mx::ELLIPSIS, ..k)) * s.expand_dims(-2);
    agree("U S V", a, &left.matmul(&vt.i((mx::ELLIPSIS, ..k, ..))))?;
    identity(u)?;
    identity(&adjoint(vt))
}

fn eigh(a: &Array, v: &[(Array, Array)], case: &Case) -> Check {
    shapes(v)?;
    let (w, vectors) = (&v[0].1, &v[1].1);
    agree("eigenvalues", &v[0].0, w)?;
    // only one triangle of the matrix counts
    let upper = matches!(case.args.get(1).or(case.kwargs.get("UPLO")), Some(Value::Str(s)) if s == "U");
    let half = if upper { mx::triu(a, 1) } else { mx::tril(a, -1) };
    let diagonal = a * mx::eye(a.dim(-1), None, 0, Dtype::Float32).astype(a.dtype());
    let full = &half + adjoint(&half) + diagonal;
    agree("A V", &(vectors * w.expand_dims(-2)), &full.matmul(vectors))?;
    identity(vectors)
}

fn eig(a: &Array, v: &[(Array, Array)]) -> Check {
    shapes(v)?;
    let (w, vectors) = (&v[0].1, &v[1].1);
    spectrum(&v[0].0, w)?;
    agree("A V", &(vectors * w.expand_dims(-2)), &a.astype(Dtype::Complex64).matmul(vectors))
}

/// The same eigenvalues in any order.
fn spectrum(want: &Array, got: &Array) -> Check {
    let n = want.dim(-1) as usize;
    let (w, g) = (complex(want), complex(got));
    for (w, g) in w.chunks(n).zip(g.chunks(n)) {
        let mut left: Vec<Complex32> = g.to_vec();
        for &w in w {
            let close = |g: &Complex32| (w - g).norm() as f64 <= 1e-4 * (1.0 + w.norm() as f64);
            match left.iter().position(close) {
                Some(i) => left.swap_remove(i),
                None => return Err(format!("eigenvalue {w} is not among {left:?}")),
            };
        }
    }
    Ok(())
}

/// The same element in its place and the same sets beside it; the same set for `topk`.
fn partition(case: &Case, a: &Array, want: &Value, got: &Value) -> Check {
    let (Value::Array(w), Value::Array(g)) = (want, got) else { return Err("arrays expected".into()) };
    shapes(&[(w.clone(), g.clone())])?;
    let number_at = |i: usize, name: &str| case.args.get(i).or(case.kwargs.get(name));
    let (axis, flat) = match number_at(2, "axis") {
        None => (-1, false),
        Some(Value::Int(i)) => (*i as i32, false),
        _ => (0, true),
    };
    let values = |x: &Array| -> Vec<Vec<f64>> {
        let x = if case.name == "mx.argpartition" {
            let a = if flat { a.reshape(-1) } else { a.clone() };
            mx::take_along_axis(&a, x, axis)
        } else {
            x.clone()
        };
        let x = if x.ndim() == 0 || flat { x.reshape(-1) } else { x.moveaxis(axis, -1) };
        let n = x.dim(-1).max(1) as usize;
        floats(&mx::contiguous(&x)).chunks(n).map(<[f64]>::to_vec).collect()
    };
    let kth = match number_at(1, "kth") {
        Some(Value::Int(k)) if case.name != "mx.topk" => Some(*k),
        _ => None,
    };
    for (w, g) in values(w).into_iter().zip(values(g)) {
        let k = kth.map_or(0, |k| if k < 0 { k + w.len() as i128 } else { k } as usize);
        let parts = |v: Vec<f64>| {
            let (mut low, mut high) = (v[..k.min(v.len())].to_vec(), v[k.min(v.len())..].to_vec());
            let pivot = high.first().copied();
            low.sort_by(f64::total_cmp);
            high.sort_by(f64::total_cmp);
            (pivot.filter(|_| kth.is_some()), low, high)
        };
        let ((wp, wl, wh), (gp, gl, gh)) = (parts(w), parts(g));
        let same = |w: &[f64], g: &[f64]| w.len() == g.len() && w.iter().zip(g).all(|(w, g)| number(*w, *g, 0.0));
        if !same(&wl, &gl) || !same(&wh, &gh) || !same(&Vec::from_iter(wp), &Vec::from_iter(gp)) {
            return Err(format!("{gl:?} {gp:?} {gh:?}, not {wl:?} {wp:?} {wh:?}"));
        }
    }
    Ok(())
}
