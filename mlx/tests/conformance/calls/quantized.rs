//! Quantised weights.

use crate::conformance::args::{Args, R, wrong};
use crate::conformance::data::Value;
use mlx::{self as mx, Dtype, Gather, Qq, Quant, QuantMode};

pub fn call(name: &str, _: bool, a: &Args<'_>) -> Option<R<Value>> {
    Some(match name {
        "quantize" => quantize(a),
        "dequantize" => dequantize(a),
        "quantized_matmul" => matmul(a),
        "gather_qmm" => gather_qmm(a),
        "qqmm" => qqmm(a),
        "gather_qqmm" => gather_qqmm(a),
        "to_fp8" => a.array(0, "x").map(|x| mx::to_fp8(&x).into()),
        "from_fp8" => from_fp8(a),
        _ => return None,
    })
}

/// group_size, bits, mode from position `i` on.
fn quant(a: &Args<'_>, i: usize, default: &str) -> R<Quant> {
    let Some(mode) = QuantMode::from_name(a.opt_str(i + 2, "mode")?.unwrap_or(default)) else { return wrong("mode") };
    let (group_size, bits) = mode.defaults();
    Ok(Quant { group_size: a.int_or(i, "group_size", group_size)?, bits: a.int_or(i + 1, "bits", bits)?, mode })
}

fn quantize(a: &Args<'_>) -> R<Value> {
    let global = a.opt_array(9, "global_scale")?;
    let (w, s, b) = mx::quantize_with(&a.array(0, "w")?, quant(a, 1, "affine")?, global.as_ref());
    Ok(Value::Tuple([Some(w), Some(s), b].into_iter().flatten().map(Value::Array).collect()))
}

fn dequantize(a: &Args<'_>) -> R<Value> {
    let (biases, global) = (a.opt_array(2, "biases")?, a.opt_array(6, "global_scale")?);
    let (w, scales, q) = (a.array(0, "w")?, a.array(1, "scales")?, quant(a, 3, "affine")?);
    Ok(mx::dequantize_with(&w, &scales, biases.as_ref(), q, a.dtype(7, "dtype")?, global.as_ref()).into())
}

fn matmul(a: &Args<'_>) -> R<Value> {
    let (x, w, scales, biases) = (a.array(0, "x")?, a.array(1, "w")?, a.array(2, "scales")?, a.opt_array(3, "biases")?);
    let (t, q) = (a.bool_or(4, "transpose", true)?, quant(a, 5, "affine")?);
    Ok(mx::quantized_matmul(&x, &w, &scales, biases.as_ref(), t, q).into())
}

fn gather_qmm(a: &Args<'_>) -> R<Value> {
    let (x, w, scales, biases) = (a.array(0, "x")?, a.array(1, "w")?, a.array(2, "scales")?, a.opt_array(3, "biases")?);
    let (l, r) = (a.opt_array(4, "lhs_indices")?, a.opt_array(5, "rhs_indices")?);
    let (t, q) = (a.bool_or(6, "transpose", true)?, quant(a, 7, "affine")?);
    let gather = Gather { lhs: l.as_ref(), rhs: r.as_ref(), sorted: a.bool_or(99, "sorted_indices", false)? };
    Ok(mx::gather_qmm(&x, &w, &scales, biases.as_ref(), gather, t, q).into())
}

fn qqmm(a: &Args<'_>) -> R<Value> {
    let (x, w, scales) = (a.array(0, "x")?, a.array(1, "w")?, a.opt_array(2, "scales")?);
    let (gx, gw) = (a.opt_array(6, "global_scale_x")?, a.opt_array(7, "global_scale_w")?);
    let o = Qq { scales: scales.as_ref(), global_scale_x: gx.as_ref(), global_scale_w: gw.as_ref() };
    Ok(mx::qqmm(&x, &w, o, quant(a, 3, "nvfp4")?).into())
}

fn gather_qqmm(a: &Args<'_>) -> R<Value> {
    let (x, w, scales) = (a.array(0, "x")?, a.array(1, "w")?, a.opt_array(2, "scales")?);
    let (l, r) = (a.opt_array(3, "lhs_indices")?, a.opt_array(4, "rhs_indices")?);
    let (gx, gw) = (a.opt_array(8, "global_scale_x")?, a.opt_array(9, "global_scale_w")?);
    let o = Qq { scales: scales.as_ref(), global_scale_x: gx.as_ref(), global_scale_w: gw.as_ref() };
    let gather = Gather { lhs: l.as_ref(), rhs: r.as_ref(), sorted: a.bool_or(99, "sorted_indices", false)? };
    Ok(mx::gather_qqmm(&x, &w, o, gather, quant(a, 5, "nvfp4")?).into())
}

fn from_fp8(a: &Args<'_>) -> R<Value> {
    Ok(mx::from_fp8(&a.array(0, "x")?, a.dtype(1, "dtype")?.unwrap_or(Dtype::Bfloat16)).into())
}
