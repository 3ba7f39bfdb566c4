//! Weights of other tools, brought into dense or MLX's packed form tensor by tensor.

pub use super::compressed::split_nvfp4_experts;
use super::{Leaves, Tensors};
use crate::config::ForeignQuant;
use crate::{Error, Result};
use mlx::{self as mx, Array, Quant};

/// Brings the weights of a format that is the same for all families into dense or packed form; what a family stores in
/// its own way (gpt_oss blocks, ternary weights) is left to its file.
pub fn convert(f: &ForeignQuant, t: &mut Tensors) -> Result<()> {
    match f {
        ForeignQuant::Awq { bits, group_size, .. } => {
            super::gptq::place_all(t, *bits as i32, *group_size as i32, false)
        }
        ForeignQuant::Gptq { bits, group_size, checkpoint_format, .. } => {
            let from_one = match checkpoint_format.as_str() {
                "gptq" => true,
                "gptq_v2" => false,
                other => return Err(unsupported("gptq", &format!("weights in the format {other:?}"))),
            };
            super::gptq::place_all(t, *bits as i32, *group_size as i32, from_one)
        }
        ForeignQuant::CompressedTensors { bits, .. } => super::compressed::place_all(t, *bits),
        ForeignQuant::ModelOpt { .. } => super::compressed::place_all(t, 8),
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
pub(super) fn fp8_blocks(w: &Array, scale: &Array, block: i32) -> Option<Array> {
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

/// Groups that MLX does not know are several that it knows: of how many weights each.
pub(super) fn known_groups(group: i32) -> Result<i32, String> {
    let known = [128, 64, 32].into_iter().find(|g| group % g == 0);
    known.ok_or_else(|| format!("groups of {group} weights are not supported: 32, 64 or multiples of 128"))
}

/// Scales or offsets [.., groups] for groups of `known` in place of `group` weights.
pub(super) fn sides(a: Array, group: i32, known: i32) -> Array {
    if known == group { a } else { mx::repeat(&a, group / known, -1) }
}

pub(super) fn unsupported(method: &str, what: &str) -> Error {
    Error::Unsupported { what: "quantisation", name: method.into(), message: format!("{what} are not supported") }
}

/// Cuts the rows of `name` [H * sum, width], head by head, into parts [H, rows, width], transposed where asked; packed
/// weights are packed again with their own bits and group.
pub fn split_heads(t: &mut Tensors, name: &str, heads: i32, width: i32, parts: &[(i32, String, bool)]) -> Result<()> {
    let weight = format!("{name}.weight");
    if !t.has(&weight) {
        return Ok(());
    }
    let (scales, biases) = (format!("{name}.scales"), format!("{name}.biases"));
    let rows: i32 = parts.iter().map(|p| p.0).sum();
    let mut w = if t.has(&scales) && !t.has(&biases) {
        // floats of few bits do not fit into such again: these small matrices become dense
        let dtype = t.float_type();
        let l = Leaves::new(std::mem::take(t), None);
        let w = l.linear(name, width, heads * rows, false)?.dense_weight_in(dtype);
        *t = l.into_tensors();
        w
    } else {
        t.take(&weight)?
    };
    let mut quant = None;
    if t.has(&scales) {
        let (scales, biases) = (t.take(&scales)?, t.take(&biases)?);
        let (words, groups) = (mx::catch(|| w.dim(-1))?, mx::catch(|| scales.dim(-1))?);
        if groups == 0 || width % groups != 0 || words * 32 % width != 0 {
            return Err(Error::tensor(weight, format!("packed {:?} does not hold {width} inputs", w.shape())));
        }
        let q = Quant::affine(width / groups, words * 32 / width);
        w = mx::catch(|| mx::dequantize(&w, &scales, Some(&biases), q, None))?;
        quant = Some(q);
    }
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
