//! The area `transforms`: named expressions, written out here, under forward, grad, vjp, jvp and vmap.

use super::args::{Args, Fail, R, ints, wrong};
use super::calls::judge;
use super::compare::Tolerance;
use super::data::{Case, Value};
use super::verdict::Verdict;
use mlx::{self as mx, Array, Complex32, Conv, Dtype, PadMode, Quant, Scan, fast, step};

/// The named expression.
fn expr(name: &str, a: &[Array]) -> Option<Array> {
    let x = &a[0];
    let y = a.get(1).unwrap_or(x);
    let z = a.get(2).unwrap_or(x);
    let i32s = |v: &[i32]| Array::from(v);
    Some(match name {
        "add_mul" => x * y + x,
        "square_sum" => x.square().sum(()),
        "cubic" => x * x * x - x * 2,
        "divide" => x / y,
        "broadcast_add" => x + y,
        "broadcast_mul_col" => x * y.sum_keepdims(1),
        "power_pos" => x.pow(y),
        "power_int" => x.pow(3),
        "maximum" => x.maximum(y),
        "maximum_tie" => x.maximum(x),
        "minimum" => x.minimum(y),
        "abs" | "abs_zero" => x.abs(),
        "sign" => x.sign(),
        "exp" => x.exp(),
        "log" => x.log(),
        "log1p" => x.log1p(),
        "log2" => x.log2(),
        "expm1" => x.expm1(),
        "sqrt" => x.sqrt(),
        "rsqrt" => x.rsqrt(),
        "reciprocal" => x.reciprocal(),
        "sin_cos" => x.sin() * y.cos(),
        "tanh" => x.tanh(),
        "sigmoid" => x.sigmoid(),
        "erf" => x.erf(),
        "erfinv" => x.erfinv(),
        "arcsin" => x.arcsin(),
        "arctan2" => x.arctan2(y),
        "sinh_cosh" => x.sinh() + x.cosh(),
        "arctanh" => x.arctanh(),
        "logaddexp" => x.logaddexp(y),
        "silu" => x * x.sigmoid(),
        "gelu" => x * (1 + (x / std::f64::consts::SQRT_2).erf()) / 2,
        "softmax" => x.softmax(-1),
        "softmax0" => x.softmax(0),
        "logsumexp" => x.logsumexp(-1),
        "log_softmax_pick" => x.logsumexp(-1) - x.i((.., 1)),
        "matmul" | "matmul_batched" => x.matmul(y),
        "addmm" => mx::addmm(x, y, z, 0.5, 2.0),
        "mlp" => (x.matmul(y) + z).tanh().matmul(&y.t()),
        "quadratic_form" => {
            let v = x.matmul(&y.t());
            (&v * &v).sum(())
        }
        "mean" => x.mean(0),
        "var" => mx::var_with(x, -1, false, 1),
        "std" => x.std(-1),
        // the text of prod_zero lacks the axis that was recorded
        "prod" | "prod_zero" => x.prod(-1),
        "max" | "max_tie" => x.max(-1),
        "min" => x.min(()),
        "cumsum" => x.cumsum(1),
        "cumsum_rev_excl" => mx::cumsum_with(x, 1, Scan { reverse: true, inclusive: false, ..Scan::default() }),
        "cumprod" => x.cumprod(1),
        "cummax" => x.cummax(1),
        "logcumsumexp" => x.logcumsumexp(1),
        "sort" => mx::sort(x, -1),
        "topk" => mx::topk(x, 2, -1),
        "take" => x.take(&i32s(&[2, 0, 1, 1]), 1),
        "getitem_slice" => x.i((.., step(1..4, 2))),
        "getitem_rev" => x.i(step(.., -1)),
        "take_along" => mx::take_along_axis(x, &mx::argsort(x, 1), 1),
        "setitem" => {
            let mut z = x * 1;
            z.set(1, y);
            &z * &z
        }
        "at_add" => x.at(i32s(&[0, 0, 2])).add(y),
        "at_max" => x.at(i32s(&[0, 2])).maximum(y),
        "where" => mx::where_(x.gt(0), x, y * 0.1),
        "clip" => mx::clip(x, Some(-0.3), Some(0.4)),
        "concat" => mx::concatenate(&[x.clone(), y * 2], 1),
        "stack" => mx::stack(&[x, y], 1),
        "split" => {
            let v = x.split(2, 1);
            &v[0] * &v[1]
        }
        "pad" => mx::pad(x, &[(1, 0), (0, 2)], 0, PadMode::Constant),
        "roll" => mx::roll(x, 1, 1) * x,
        "transpose_reshape" => x.t().reshape([2, 6]),
        "broadcast_to" => mx::broadcast_to(x, [3, 4]),
        "repeat" => mx::repeat(x, 2, 0),
        "tile" => mx::tile(x, [2, 2]),
        "diag" => mx::diag(x, 0),
        "tril" => mx::tril(x, 0),
        "einsum" => mx::einsum("ij,ik->jk", &[x, y]),
        "outer" => mx::outer(x, x),
        "tensordot" => mx::tensordot(x, y, mx::Contract::Pairs(vec![0, 1], vec![0, 1])),
        "stop_gradient" => x * x.stop_gradient(),
        "astype" => x.astype(Dtype::Float16).astype(Dtype::Float32) * 2,
        "conv1d" => mx::conv1d(x, y, Conv { padding: [1], ..Conv::default() }),
        "conv2d" => mx::conv2d(x, y, Conv { stride: [2, 2], padding: [1, 1], ..Conv::default() }),
        "rms_norm" => fast::rms_norm(x, Some(y), 1e-5),
        "layer_norm" => fast::layer_norm(x, Some(y), Some(z), 1e-5),
        "rope" => fast::rope(x, fast::Rope { dims: 4, ..fast::Rope::default() }, 1),
        "sdpa" => {
            let o = fast::Sdpa { scale: 0.5, mask: Some(&fast::Mask::Causal), ..fast::Sdpa::default() };
            fast::scaled_dot_product_attention(x, y, z, o)
        }
        "cross_entropy_fast" => fast::cross_entropy(x, &i32s(&[1, 0, 3])),
        "quantized_matmul" => {
            let w = mx::linspace(-1.0, 1.0, 128, Dtype::Float32).reshape([4, 32]);
            let q = Quant::affine(32, 4);
            let (w, s, b) = mx::quantize(&w, q);
            mx::quantized_matmul(x, &w, &s, b.as_ref(), true, q)
        }
        "inv" => mx::linalg::inv(x),
        "fft_abs" => mx::fft::fft(x, None, -1, mx::fft::Norm::default()).abs().square().sum(()),
        "second_order_seed" => (x * x * x).sum(()) * y.sum(()),
        "logical_passthrough" => mx::where_(x.isfinite(), x, 0) * 3,
        "real_imag" => {
            let z = x + y * Complex32::new(0.0, 1.0);
            mx::real(&z * &z)
        }
        _ => return None,
    })
}

fn list(v: Vec<Array>) -> Value {
    v.into()
}

fn run(case: &Case) -> R<Value> {
    let Some(Value::Str(name)) = case.field("expr") else { return Err(Fail::Unknown) };
    let args = Args { pos: &case.args, kw: &case.kwargs }.all_arrays()?;
    if mx::catch(|| expr(name, &args).is_none()).unwrap_or(false) {
        return Err(Fail::Unknown);
    }
    let f = |a: &Vec<Array>| expr(name, a).unwrap_or_else(|| a[0].clone());
    let scalar = |a: &[Array]| vec![f(&a.to_vec()).sum(())];
    let arrays = |field: &str| match case.field(field).and_then(Value::items) {
        Some(v) => v.iter().map(super::args::as_array).collect::<R<Vec<Array>>>(),
        None => wrong(field),
    };
    let grad_of = |a: &[Array]| mx::value_and_grad_argnums(scalar, a, &[0]).1[0].clone();
    let axes = |field: &str| {
        case.field(field)
            .and_then(Value::items)
            .map(|v| v.iter().map(|v| super::args::int(v).ok()).collect::<Vec<Option<i32>>>())
    };
    let out_axis = case.field("out_axes").and_then(|v| super::args::int(v).ok());
    let value = match case.name.as_str() {
        "forward" => f(&args).into(),
        "grad" | "value_and_grad" => {
            let given = case.field("argnums").ok_or(Fail::Unknown)?;
            let (value, grads) = mx::value_and_grad_argnums(scalar, &args, &ints(given)?);
            // a list of one gives its gradient alone
            let one = grads.len() == 1;
            let grads = if one { grads[0].clone().into() } else { list(grads) };
            if case.name == "grad" { grads } else { Value::Tuple(vec![value[0].clone().into(), grads]) }
        }
        "vjp" => {
            let (out, products) = mx::vjp(|a| vec![f(a)], &args, &arrays("cotangents")?);
            Value::Tuple(vec![list(out), list(products)])
        }
        "jvp" => {
            let (out, products) = mx::jvp(|a| vec![f(a)], &args, &arrays("tangents")?);
            Value::Tuple(vec![list(out), list(products)])
        }
        "grad_of_grad" => mx::value_and_grad_argnums(|a| vec![grad_of(a).sum(())], &args, &[0]).1[0].clone().into(),
        "vmap" => mx::vmap_axes(f, axes("in_axes").ok_or(Fail::Unknown)?, out_axis)(&args).into(),
        "vmap_of_grad" => {
            mx::vmap_axes(|a: &Vec<Array>| grad_of(a), axes("in_axes").ok_or(Fail::Unknown)?, out_axis)(&args).into()
        }
        _ => return Err(Fail::Unknown),
    };
    mx::eval(value.arrays()).map_err(Fail::Eval)?;
    Ok(value)
}

/// Checks one record.
pub fn check(case: &Case) -> Verdict {
    judge(case, mx::catch(|| run(case)).unwrap_or_else(|e| Err(Fail::Call(e))), Tolerance::Loose)
}
