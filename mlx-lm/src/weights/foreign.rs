//! Weights of other tools, brought into dense or MLX's packed form tensor by tensor.

use super::Tensors;
use crate::config::ForeignQuant;
use crate::{Error, Result};
use mlx::{self as mx, Array, Quant};

/// Brings the weights of a format that is the same for all families into dense or packed form; what a family stores in
/// its own way (gpt_oss blocks, ternary weights) is left to its file.
pub fn convert(f: &ForeignQuant, t: &mut Tensors) -> Result<()> {
    match f {
        ForeignQuant::Awq { bits, group_size, .. } | ForeignQuant::Gptq { bits, group_size, .. } => {
            unpack_columns(t, *bits as i32, *group_size as i32)
        }
        ForeignQuant::CompressedTensors { format, bits, symmetric, .. } if format == "pack-quantized" => {
            if !symmetric {
                return Err(unsupported("compressed-tensors", "codes with zero points"));
            }
            unpack_codes(t, *bits)
        }
        ForeignQuant::CompressedTensors { format, .. } if format == "mxfp4-pack-quantized" => {
            words(t, "weight_packed", "weight_scale")
        }
        ForeignQuant::Mxfp8 { .. } => words(t, "weight", "weight_scale_inv"),
        ForeignQuant::Bitnet { inverse, .. } => unpack_ternary(t, *inverse),
        ForeignQuant::Fp8 { block, .. } => dequantize_fp8(t, block.map_or(128, |b| b[0] as i32)),
        ForeignQuant::Jang { .. } => super::jang::rename(t),
        ForeignQuant::Codebook { tensors } => super::codebook::place_all(tensors, t),
        _ => Ok(()),
    }
}

/// Microscaled weights, whose bytes (under the leaf `bytes`) are those of MLX's words and whose `scales` are MLX's.
fn words(t: &mut Tensors, bytes: &str, scales: &str) -> Result<()> {
    for name in t.select(|n| n.ends_with(&format!(".{scales}"))) {
        let base = name.trim_end_matches(scales).to_string();
        let packed = t.take(&format!("{base}{bytes}"))?;
        let words = mx::catch(|| packed.view(mx::Dtype::Uint32));
        t.insert(format!("{base}weight"), words.map_err(|e| Error::tensor(format!("{base}{bytes}"), e.to_string()))?);
        t.rename(&name, format!("{base}scales"))?;
    }
    Ok(())
}

/// AutoAWQ and GPTQ: `qweight` [in, out / 8] with eight interleaved 4-bit codes a word, `scales` [groups, out], `qzeros`
/// [groups, out / 8]; they become MLX's affine form.
fn unpack_columns(t: &mut Tensors, bits: i32, group: i32) -> Result<()> {
    if let Some(name) = t.select(|n| n.ends_with(".g_idx")).first() {
        return Err(Error::tensor(name, "groups in another order than the columns are not supported"));
    }
    for name in t.select(|n| n.ends_with(".qweight")) {
        if bits != 4 {
            return Err(Error::tensor(name, format!("{bits}-bit columns are not supported, only 4-bit ones")));
        }
        let base = name.trim_end_matches("qweight").to_string();
        let words = t.take(&name)?;
        let scales = t.take(&format!("{base}scales"))?;
        let zeros = if t.has(&format!("{base}qzeros")) { Some(t.take(&format!("{base}qzeros"))?) } else { None };
        let (weight, scales, biases) = mx::catch(|| affine_columns(&words, &scales, zeros.as_ref()))?;
        if mx::catch(|| weight.dim(-1) * 8 != scales.dim(-1) * group)? {
            return Err(Error::tensor(name, format!("{:?} codes do not make groups of {group}", weight.shape())));
        }
        t.insert(format!("{base}weight"), weight);
        t.insert(format!("{base}scales"), scales);
        t.insert(format!("{base}biases"), biases);
    }
    Ok(())
}

/// Codes [rows, 8 * words] of interleaved words: code i of a word stands at place (0, 4, 1, 5, 2, 6, 3, 7)[i].
fn codes(words: &Array) -> Array {
    let shifts = Array::from([0u32, 16, 4, 20, 8, 24, 12, 28]);
    let words = words.view(mx::Dtype::Uint32);
    let all = (words.expand_dims(-1) >> shifts) & Array::from(15u32);
    all.flatten(-2, -1)
}

fn affine_columns(words: &Array, scales: &Array, zeros: Option<&Array>) -> (Array, Array, Array) {
    let q = codes(words).t();
    let [out, input] = q.dims();
    let places = Array::from((0..8u32).map(|i| 4 * i).collect::<Vec<_>>());
    let weight = (q.reshape([out, input / 8, 8]) << places).sum(-1).astype(mx::Dtype::Uint32);
    let scales = mx::contiguous(&scales.t());
    let wide = scales.astype(mx::Dtype::Float32);
    let biases = match zeros {
        Some(z) => -codes(z).t().astype(mx::Dtype::Float32) * &wide,
        None => &wide * -8.0,
    };
    let biases = biases.astype(scales.dtype());
    (weight, scales, biases)
}

/// e4m3 weights (`weight` + `weight_scale_inv` per block x block, per expert, or one for all) become bf16.
pub fn dequantize_fp8(t: &mut Tensors, block: i32) -> Result<()> {
    for name in t.select(|n| n.ends_with("_scale_inv")) {
        let weight = name.replace("_scale_inv", "");
        if !t.has(&weight) {
            return Err(Error::tensor(weight, format!("missing beside {name}")));
        }
        let scale = t.take(&name)?;
        let w = t.take(&weight)?;
        let Some(dense) = mx::catch(|| fp8_blocks(&w, &scale, block))? else {
            let shapes = format!("{:?} does not scale {:?} in blocks of {block}", scale.shape(), w.shape());
            return Err(Error::tensor(name, shapes));
        };
        t.insert(weight, dense);
    }
    Ok(())
}

/// One scale per block, in the order of their rows and columns, or a scale that broadcasts; `None` where it is neither.
fn fp8_blocks(w: &Array, scale: &Array, block: i32) -> Option<Array> {
    let w = mx::from_fp8(w, mx::Dtype::Bfloat16);
    let up = |n: i32| (n + block - 1) / block;
    if w.ndim() != 2 || scale.shape() != [up(w.dim(0)), up(w.dim(1))] {
        let padded = w.shape().iter().rev().zip(scale.shape().iter().rev());
        let fits = scale.ndim() <= w.ndim() && padded.into_iter().all(|(w, s)| *s == 1 || s == w);
        return fits.then(|| (w * scale).astype(mx::Dtype::Bfloat16));
    }
    let [m, n] = w.dims();
    let (down, side) = (up(m) * block - m, up(n) * block - n);
    let w = mx::pad(&w, &[(0, down), (0, side)], 0.0, mx::PadMode::Constant);
    let blocks = w.reshape([up(m), block, up(n), block]);
    let scaled = (blocks * scale.expand_dims([1, 3])).reshape([m + down, n + side]);
    Some(mx::contiguous(&scaled.slice_axis(0, 0..m).slice_axis(1, 0..n)).astype(mx::Dtype::Bfloat16))
}

/// e4m3 and e2m1 weights, packed as bytes with a power-of-two `.scale` per 32 x 32 or 1 x 32 of them, become MLX's mxfp8
/// and mxfp4: words, and a scale per row and 32 columns.
pub fn repack_microscaled(t: &mut Tensors) -> Result<()> {
    for name in t.select(|n| n.ends_with(".scale")) {
        let base = name.trim_end_matches("scale").to_string();
        let weight = format!("{base}weight");
        if !t.has(&weight) {
            continue;
        }
        let (w, scale) = (t.take(&weight)?, t.take(&name)?);
        let (words, scales) = mx::catch(|| {
            // floats become their exponents
            let scale = match scale.dtype() {
                mx::Dtype::Uint8 => scale,
                _ => (scale.astype(mx::Dtype::Float32).log2() + 127.0).astype(mx::Dtype::Uint8),
            };
            let rows = w.dim(-2);
            let tiled = scale.dim(-2) != rows;
            let scale = if tiled { mx::repeat(&scale, 32, -2).slice_axis(-2, 0..rows) } else { scale };
            (w.view(mx::Dtype::Uint32), mx::contiguous(&scale))
        })?;
        t.insert(weight, words);
        t.insert(format!("{base}scales"), scales);
    }
    Ok(())
}

/// A gate g of a residual stream becomes the factors of the branch, beta = sigmoid(g / 0.3), and of the stream,
/// alpha = sqrt(1 - beta^2), at least sqrt(1e-3) (muse_spark).
pub fn residual_gate(t: &mut Tensors, name: &str, [alpha, beta]: &[String; 2]) -> Result<()> {
    let w = t.take(name)?.astype(mx::Dtype::Float32) / 0.3;
    let b = w.sigmoid();
    t.insert(alpha, mx::maximum((-w).sigmoid() * (&b + 1.0), 1e-3).sqrt());
    t.insert(beta, b);
    Ok(())
}

/// BitNet's ternary matrices become MLX's 2-bit affine form: row r + i * out / 4 of codes 0, 1, 2 (for -1, 0, 1) lies in
/// bits 2i, 2i + 1 of packed row r [out / 4, in]; one `weight_scale` multiplies all, or divides when `inverse`.
fn unpack_ternary(t: &mut Tensors, inverse: bool) -> Result<()> {
    for name in t.select(|n| n.ends_with(".weight_scale")) {
        let base = name.trim_end_matches("weight_scale").to_string();
        let scale = t.take(&name)?;
        let packed = t.take(&format!("{base}weight"))?;
        let columns = packed.shape().last().copied().unwrap_or(0);
        let Some(group) = [128, 64, 32].into_iter().find(|g| packed.ndim() == 2 && columns % g == 0) else {
            return Err(Error::tensor(format!("{base}weight"), format!("{:?} is not packed rows", packed.shape())));
        };
        let (weight, scales, biases) = mx::catch(|| {
            let wide = packed.astype(mx::Dtype::Uint32);
            let rows = [0u32, 2, 4, 6].map(|shift| (&wide >> Array::from([shift])) & Array::from([3u32]));
            let codes = mx::concatenate(&rows, 0);
            let [out, input] = codes.dims();
            let places = Array::from((0..16u32).map(|i| 2 * i).collect::<Vec<_>>());
            let weight = (codes.reshape([out, input / 16, 16]) << places).sum(-1).astype(mx::Dtype::Uint32);
            let f = scale.astype(mx::Dtype::Float32).reshape([1, 1]);
            let factor = (if inverse { 1.0 / f } else { f }).astype(scale.dtype());
            let scales = mx::contiguous(&mx::broadcast_to(&factor, [out, input / group]));
            let biases = -&scales;
            (weight, scales, biases)
        })?;
        t.insert(format!("{base}weight"), weight);
        t.insert(format!("{base}scales"), scales);
        t.insert(format!("{base}biases"), biases);
    }
    Ok(())
}

fn unsupported(method: &str, what: &str) -> Error {
    Error::Unsupported { what: "quantisation", name: method.into(), message: format!("{what} are not supported") }
}

/// compressed-tensors' packed integers (`weight_packed`, `weight_scale`, `weight_shape`): codes are offset by half their
/// range.
fn unpack_codes(t: &mut Tensors, bits: usize) -> Result<()> {
    let offset = match bits {
        4 => -8.0,
        8 => -128.0,
        other => return Err(unsupported("compressed-tensors", &format!("codes of {other} bits"))),
    };
    for name in t.select(|n| n.ends_with("weight_shape")) {
        let base = name.trim_end_matches("weight_shape").to_string();
        t.remove(&name);
        let packed = t.take(&format!("{base}weight_packed"))?;
        let scale = t.take(&format!("{base}weight_scale"))?;
        t.insert(format!("{base}weight"), mx::catch(|| packed.view(mx::Dtype::Uint32))?);
        t.insert(format!("{base}biases"), mx::catch(|| &scale * offset)?);
        t.insert(format!("{base}scales"), scale);
    }
    Ok(())
}

/// Cuts the rows of `name` [H * sum, width], head by head, into parts [H, rows, width], transposed where asked; packed
/// weights are packed again with their own bits and group.
pub fn split_heads(t: &mut Tensors, name: &str, heads: i32, width: i32, parts: &[(i32, String, bool)]) -> Result<()> {
    let weight = format!("{name}.weight");
    if !t.has(&weight) {
        return Ok(());
    }
    let mut w = t.take(&weight)?;
    let mut quant = None;
    if t.has(&format!("{name}.scales")) {
        let (scales, biases) = (t.take(&format!("{name}.scales"))?, t.take(&format!("{name}.biases"))?);
        let (words, groups) = (mx::catch(|| w.dim(-1))?, mx::catch(|| scales.dim(-1))?);
        if groups == 0 || width % groups != 0 || words * 32 % width != 0 {
            return Err(Error::tensor(weight, format!("packed {:?} does not hold {width} inputs", w.shape())));
        }
        let q = Quant::affine(width / groups, words * 32 / width);
        w = mx::catch(|| mx::dequantize(&w, &scales, Some(&biases), q, None))?;
        quant = Some(q);
    }
    let rows: i32 = parts.iter().map(|p| p.0).sum();
    if w.shape() != [heads * rows, width] {
        return Err(Error::tensor(weight, format!("shape {:?}, expected {:?}", w.shape(), [heads * rows, width])));
    }
    let w = mx::catch(|| w.reshape([heads, rows, width]))?;
    let mut at = 0;
    for (n, to, transposed) in parts {
        let part = mx::catch(|| {
            let p = w.slice_axis(1, at..at + n);
            mx::contiguous(&if *transposed { p.swapaxes(-1, -2) } else { p })
        })?;
        at += n;
        match quant {
            None => t.insert(format!("{to}.weight"), part),
            Some(q) => {
                let (w, s, b) = mx::catch(|| mx::quantize(&part, q))?;
                t.insert(format!("{to}.weight"), w);
                t.insert(format!("{to}.scales"), s);
                if let Some(b) = b {
                    t.insert(format!("{to}.biases"), b);
                }
            }
        }
    }
    Ok(())
}
