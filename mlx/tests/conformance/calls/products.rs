//! Matrix products, convolutions, fused ops.

use crate::conformance::args::{Args, R, float, int, ints, wrong};
use crate::conformance::data::Value;
use mlx::fast::{Mask, Offset, Rope, Sdpa};
use mlx::{self as mx, Array, BlockMasks, Contract, Conv, ConvGeneral, ConvTranspose, ConvolveMode};

pub fn call(name: &str, _: bool, a: &Args<'_>) -> Option<R<Value>> {
    Some(match name {
        "matmul" => two(a, mx::matmul),
        "inner" => two(a, mx::inner),
        "outer" => two(a, |x, y| mx::outer(x, y)),
        "kron" => two(a, mx::kron),
        "vecdot" => vecdot(a),
        "addmm" => addmm(a),
        "tensordot" => tensordot(a),
        "einsum" => einsum(a),
        "block_masked_mm" => block_masked_mm(a),
        "segmented_mm" => segmented_mm(a),
        "gather_mm" => gather_mm(a),
        "hadamard_transform" => hadamard(a),
        "conv1d" => conv(a, mx::conv1d),
        "conv2d" => conv(a, mx::conv2d),
        "conv3d" => conv(a, mx::conv3d),
        "conv_transpose1d" => conv_transpose(a, mx::conv_transpose1d),
        "conv_transpose2d" => conv_transpose(a, mx::conv_transpose2d),
        "conv_transpose3d" => conv_transpose(a, mx::conv_transpose3d),
        "conv_general" => conv_general(a),
        "convolve" => convolve(a),
        "fast.rms_norm" => rms_norm(a),
        "fast.layer_norm" => layer_norm(a),
        "fast.rope" => rope(a),
        "fast.scaled_dot_product_attention" => attention(a),
        "fast.cross_entropy" => cross_entropy(a),
        _ => return None,
    })
}

fn two(a: &Args<'_>, f: fn(&Array, &Array) -> Array) -> R<Value> {
    Ok(f(&a.array(0, "a")?, &a.array(1, "b")?).into())
}

fn vecdot(a: &Args<'_>) -> R<Value> {
    Ok(mx::vecdot(&a.array(0, "a")?, &a.array(1, "b")?, a.int_or(9, "axis", -1)?).into())
}

fn addmm(a: &Args<'_>) -> R<Value> {
    let (alpha, beta) = (a.float_or(3, "alpha", 1.0)? as f32, a.float_or(4, "beta", 1.0)? as f32);
    Ok(mx::addmm(&a.array(0, "c")?, &a.array(1, "a")?, &a.array(2, "b")?, alpha, beta).into())
}

fn tensordot(a: &Args<'_>) -> R<Value> {
    let axes = match a.some(2, "axes") {
        None => Contract::Count(2),
        Some(v) => match v.items() {
            Some([x, y]) => Contract::Pairs(ints(x)?, ints(y)?),
            Some(other) => return wrong(other),
            None => Contract::Count(int(v)?),
        },
    };
    Ok(mx::tensordot(&a.array(0, "a")?, &a.array(1, "b")?, axes).into())
}

fn einsum(a: &Args<'_>) -> R<Value> {
    let Some(subscripts) = a.opt_str(0, "subscripts")? else { return wrong("subscripts") };
    let rest = Args { pos: &a.pos[1..], kw: a.kw };
    Ok(mx::einsum(subscripts, &rest.all_arrays()?).into())
}

fn block_masked_mm(a: &Args<'_>) -> R<Value> {
    let (out, lhs, rhs) = (a.opt_array(3, "mask_out")?, a.opt_array(4, "mask_lhs")?, a.opt_array(5, "mask_rhs")?);
    let masks = BlockMasks { out: out.as_ref(), lhs: lhs.as_ref(), rhs: rhs.as_ref() };
    Ok(mx::block_masked_mm(&a.array(0, "a")?, &a.array(1, "b")?, a.int_or(2, "block_size", 64)?, masks).into())
}

fn segmented_mm(a: &Args<'_>) -> R<Value> {
    Ok(mx::segmented_mm(&a.array(0, "a")?, &a.array(1, "b")?, &a.array(2, "segments")?).into())
}

fn gather_mm(a: &Args<'_>) -> R<Value> {
    let (l, r) = (a.opt_array(2, "lhs_indices")?, a.opt_array(3, "rhs_indices")?);
    let sorted = a.bool_or(9, "sorted_indices", false)?;
    Ok(mx::gather_mm(&a.array(0, "a")?, &a.array(1, "b")?, l.as_ref(), r.as_ref(), sorted).into())
}

fn hadamard(a: &Args<'_>) -> R<Value> {
    Ok(mx::hadamard_transform(&a.array(0, "a")?, a.opt_float(1, "scale")?.map(|s| s as f32)).into())
}

/// One number for all axes, or one for each.
fn spread<const N: usize>(a: &Args<'_>, i: usize, name: &str, default: i32) -> R<[i32; N]> {
    match a.opt_ints(i, name)? {
        None => Ok([default; N]),
        Some(v) if v.len() == 1 => Ok([v[0]; N]),
        Some(v) => v.clone().try_into().or_else(|_| wrong(v)),
    }
}

fn conv<const N: usize>(a: &Args<'_>, f: fn(&Array, &Array, Conv<N>) -> Array) -> R<Value> {
    let o = Conv {
        stride: spread(a, 2, "stride", 1)?,
        padding: spread(a, 3, "padding", 0)?,
        dilation: spread(a, 4, "dilation", 1)?,
        groups: a.int_or(5, "groups", 1)?,
    };
    Ok(f(&a.array(0, "input")?, &a.array(1, "weight")?, o).into())
}

fn conv_transpose<const N: usize>(a: &Args<'_>, f: fn(&Array, &Array, ConvTranspose<N>) -> Array) -> R<Value> {
    let o = ConvTranspose {
        stride: spread(a, 2, "stride", 1)?,
        padding: spread(a, 3, "padding", 0)?,
        dilation: spread(a, 4, "dilation", 1)?,
        output_padding: spread(a, 5, "output_padding", 0)?,
        groups: a.int_or(6, "groups", 1)?,
    };
    Ok(f(&a.array(0, "input")?, &a.array(1, "weight")?, o).into())
}

fn conv_general(a: &Args<'_>) -> R<Value> {
    let list = |i, name| a.opt_ints(i, name).map(Option::unwrap_or_default);
    let (low, high) = match a.some(3, "padding") {
        Some(v) if v.items().is_some_and(|v| v.iter().any(|v| v.items().is_some())) => match v.items() {
            Some([low, high]) => (ints(low)?, ints(high)?),
            other => return wrong(other),
        },
        Some(v) => (ints(v)?, ints(v)?),
        None => Default::default(),
    };
    let (stride, kernel, input) = (list(2, "stride")?, list(4, "kernel_dilation")?, list(5, "input_dilation")?);
    let o = ConvGeneral {
        stride: &stride,
        padding_low: &low,
        padding_high: &high,
        kernel_dilation: &kernel,
        input_dilation: &input,
        groups: a.int_or(6, "groups", 1)?,
        flip: a.bool_or(7, "flip", false)?,
    };
    Ok(mx::conv_general(&a.array(0, "input")?, &a.array(1, "weight")?, o).into())
}

fn convolve(a: &Args<'_>) -> R<Value> {
    let mode = match a.opt_str(2, "mode")?.unwrap_or("full") {
        "full" => ConvolveMode::Full,
        "same" => ConvolveMode::Same,
        "valid" => ConvolveMode::Valid,
        other => return wrong(other),
    };
    Ok(mx::convolve(&a.array(0, "a")?, &a.array(1, "v")?, mode).into())
}

fn rms_norm(a: &Args<'_>) -> R<Value> {
    let (w, eps) = (a.opt_array(1, "weight")?, a.float_or(2, "eps", 1e-5)? as f32);
    Ok(mx::fast::rms_norm(&a.array(0, "x")?, w.as_ref(), eps).into())
}

fn layer_norm(a: &Args<'_>) -> R<Value> {
    let (w, b, eps) = (a.opt_array(1, "weight")?, a.opt_array(2, "bias")?, a.float_or(3, "eps", 1e-5)? as f32);
    Ok(mx::fast::layer_norm(&a.array(0, "x")?, w.as_ref(), b.as_ref(), eps).into())
}

fn rope(a: &Args<'_>) -> R<Value> {
    let (freqs, base) = (a.opt_array(9, "freqs")?, a.opt_float(9, "base")?);
    if freqs.is_some() == base.is_some() {
        // Rust has one of the two by construction
        return wrong("rope takes a base or frequencies");
    }
    let rope = Rope {
        dims: a.int(1, "dims")?,
        traditional: a.bool_or(9, "traditional", false)?,
        base: base.unwrap_or(10000.0) as f32,
        scale: a.float_or(9, "scale", 1.0)? as f32,
        freqs: freqs.as_ref(),
    };
    let x = a.array(0, "a")?;
    Ok(match a.given(9, "offset") {
        Some(Value::Array(o)) => mx::fast::rope(&x, rope, Offset::Array(o)),
        Some(v) => mx::fast::rope(&x, rope, int(v)?),
        None => return wrong("offset"),
    }
    .into())
}

fn attention(a: &Args<'_>) -> R<Value> {
    let Some(scale) = a.some(9, "scale") else { return wrong("scale") };
    let mask = match a.some(9, "mask") {
        None => Mask::None,
        Some(Value::Str(s)) if s == "causal" => Mask::Causal,
        Some(Value::Array(m)) => Mask::Array(m.clone()),
        other => return wrong(other),
    };
    let sinks = a.opt_array(9, "sinks")?;
    let o = Sdpa {
        scale: float(scale)? as f32,
        mask: Some(&mask),
        sinks: sinks.as_ref(),
        force_fused: a.bool_or(9, "force_fused", false)?,
    };
    let (q, k, v) = (a.array(0, "q")?, a.array(1, "k")?, a.array(2, "v")?);
    Ok(mx::fast::scaled_dot_product_attention(&q, &k, &v, o).into())
}

fn cross_entropy(a: &Args<'_>) -> R<Value> {
    Ok(mx::fast::cross_entropy(&a.array(0, "logits")?, &a.array(1, "targets")?).into())
}
