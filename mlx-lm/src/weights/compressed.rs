//! Weights of compressed-tensors and ModelOpt in MLX's packed forms, told apart by what is stored.

use super::foreign::{known_groups, sides, unsupported};
use super::{Dtype, Tensors};
use crate::{Error, Result};
use mlx::{self as mx, Array};

/// Scales that these containers keep for activations and caches, which nothing here quantises.
const UNUSED: [&str; 6] =
    [".input_scale", ".input_global_scale", ".input_zero_point", ".output_scale", ".k_scale", ".v_scale"];

/// The largest number of nvfp4, which MLX's scale of a whole weight stands for.
const NVFP4_LARGEST: f32 = 6.0 * 448.0;

/// Brings every scaled weight into MLX's form; `bits` are those of packed integers.
pub(super) fn place_all(t: &mut Tensors, bits: usize) -> Result<()> {
    t.drop_where(|n| UNUSED.iter().any(|u| n.ends_with(u)));
    for name in t.select(|n| n.ends_with(".weight_scale")) {
        let module = name.trim_end_matches(".weight_scale");
        let packed = format!("{module}.weight_packed");
        let bytes = if t.has(&packed) { packed } else { format!("{module}.weight") };
        use Dtype as D;
        match (t.stored_dtype(&bytes), t.stored_dtype(&name)) {
            (None, _) => return Err(Error::tensor(bytes, format!("missing beside {name}"))),
            (Some(D::U8), Some(D::F8E4M3)) => nvfp4(t, module, &bytes)?,
            (Some(D::U8), Some(D::U8 | D::F8E8M0)) => words(t, module, &bytes)?,
            (Some(D::F8E4M3), _) => fp8(t, module)?,
            (Some(D::I8), _) => int8(t, module)?,
            (Some(D::I32 | D::U32), _) => integers(t, module, bits)?,
            (Some(other), _) => return Err(Error::tensor(bytes, format!("{other} weights with scales are not known"))),
        }
    }
    Ok(())
}

/// `bytes` are MLX's words, `weight_scale` its scales.
fn words(t: &mut Tensors, module: &str, bytes: &str) -> Result<()> {
    let packed = t.take(bytes)?;
    let words = mx::catch(|| packed.view(mx::Dtype::Uint32)).map_err(|e| Error::tensor(bytes, e.to_string()))?;
    t.insert(format!("{module}.weight"), words);
    t.rename(&format!("{module}.weight_scale"), format!("{module}.scales"))
}

/// Four-bit floats with a scale per 16 and one of the whole weight, which multiplies (`weight_scale_2`, ModelOpt) or
/// divides (`weight_global_scale`, compressed-tensors). It stays a factor on products: e4m3 scales cannot take it in.
fn nvfp4(t: &mut Tensors, module: &str, bytes: &str) -> Result<()> {
    words(t, module, bytes)?;
    for (name, divides) in [("weight_scale_2", false), ("weight_global_scale", true)] {
        let name = format!("{module}.{name}");
        if t.has(&name) {
            let scale = one(&name, t.take_exact(&name)?)?;
            let whole = if divides { NVFP4_LARGEST / scale } else { scale * NVFP4_LARGEST };
            t.insert(format!("{module}.global_scale"), whole);
        }
    }
    Ok(())
}

/// A single number as a 0-d float32.
fn one(name: &str, a: Array) -> Result<Array> {
    if a.size() != 1 {
        return Err(Error::tensor(name, format!("{:?} is not one number", a.shape())));
    }
    Ok(a.reshape(()).astype(mx::Dtype::Float32))
}

/// e4m3 weights [out, in] with one scale or one per row: MLX's mxfp8 whose own scales are 1, times a factor on products,
/// so that no number is rounded. Scales of blocks, which no such form has, make the weight bf16.
fn fp8(t: &mut Tensors, module: &str) -> Result<()> {
    let (weight, name) = (format!("{module}.weight"), format!("{module}.weight_scale"));
    let (w, scale) = (t.take(&weight)?, t.take_exact(&name)?);
    let &[out, input] = w.shape() else { return Err(Error::tensor(weight, format!("{:?} is no matrix", w.shape()))) };
    let rows: &[i32] = match scale.size() {
        1 => &[],
        n if n == out as usize => &[out],
        _ => {
            let scale = match scale.shape() {
                &[a, 1, b, 1] => scale.reshape([a, b]),
                _ => scale,
            };
            let dense = mx::catch(|| super::foreign::fp8_blocks(&w, &scale, 128))?;
            let misfit = || Error::tensor(&name, format!("{:?} does not scale {:?}", scale.shape(), w.shape()));
            t.insert(weight, dense.ok_or_else(misfit)?);
            return Ok(());
        }
    };
    if input % 32 != 0 {
        return Err(Error::tensor(weight, format!("rows of {input} weights do not divide into groups of 32")));
    }
    t.insert(weight, mx::catch(|| w.view(mx::Dtype::Uint32))?);
    // e8m0 of 1
    t.insert(format!("{module}.scales"), mx::full([out, input / 32], 127, Some(mx::Dtype::Uint8)));
    t.insert(format!("{module}.global_scale"), scale.reshape(rows).astype(mx::Dtype::Float32));
    Ok(())
}

/// Signed bytes [out, in] with a scale per row or group.
fn int8(t: &mut Tensors, module: &str) -> Result<()> {
    let weight = format!("{module}.weight");
    let w = t.take(&weight)?;
    let codes = mx::catch(|| (w.view(mx::Dtype::Uint8) ^ Array::from(128u8)).view(mx::Dtype::Uint32))
        .map_err(|e| Error::tensor(&weight, e.to_string()))?;
    let columns = w.shape().last().copied().unwrap_or(0);
    affine(t, module, codes, columns, 8)
}

/// Words of codes (`weight_packed`), offset by half their range.
fn integers(t: &mut Tensors, module: &str, bits: usize) -> Result<()> {
    if !matches!(bits, 2 | 4 | 8) {
        return Err(unsupported("compressed-tensors", &format!("codes of {bits} bits")));
    }
    let packed = t.take(&format!("{module}.weight_packed"))?.view(mx::Dtype::Uint32);
    t.remove(&format!("{module}.weight_shape"));
    let columns = packed.shape().last().map_or(0, |w| w * 32 / bits as i32);
    let order = format!("{module}.weight_g_idx");
    let packed = if t.has(&order) {
        let groups = t.take(&order)?;
        match super::gptq::order(t, &order, &groups, columns)? {
            Some(o) => {
                let sorted = mx::catch(|| super::gptq::reorder(&packed, &o, bits as i32))?;
                t.insert(format!("{module}.order"), o);
                sorted
            }
            None => packed,
        }
    } else {
        packed
    };
    affine(t, module, packed, columns, bits)
}

/// MLX's affine form of codes whose zero is half their range, or `weight_zero_point`.
fn affine(t: &mut Tensors, module: &str, codes: Array, columns: i32, bits: usize) -> Result<()> {
    let (zeros, name) = (format!("{module}.weight_zero_point"), format!("{module}.weight_scale"));
    let scales = t.take(&name)?;
    let fail = |m: String| Error::tensor(&name, m);
    let scales = mx::catch(|| if scales.ndim() < 2 { scales.reshape([-1, 1]) } else { scales })?;
    let groups = scales.dim(-1);
    if groups == 0 || columns % groups != 0 {
        return Err(fail(format!("{groups} groups do not divide {columns} columns")));
    }
    let half = (1 << (bits - 1)) as f32;
    let biases = match t.has(&zeros) {
        false => &scales * -half,
        true => {
            let stored = t.stored_dtype(&zeros);
            let z = t.take(&zeros)?;
            let z = match stored {
                // as many to a word as codes, from row to row
                Some(Dtype::I32 | Dtype::U32) => mx::catch(|| super::gptq::unpack(&z.t(), bits as i32).t())?,
                _ => z.astype(mx::Dtype::Float32) + half,
            };
            if z.size() != scales.size() {
                return Err(Error::tensor(
                    zeros,
                    format!("{:?} is not one for each of {:?}", z.shape(), scales.shape()),
                ));
            }
            let wide = scales.astype(mx::Dtype::Float32);
            (-(z.reshape(scales.shape()).astype(mx::Dtype::Float32)) * wide).astype(scales.dtype())
        }
    };
    let known = known_groups(columns / groups).map_err(fail)?;
    t.insert(format!("{module}.weight"), codes);
    t.insert(format!("{module}.scales"), sides(scales, columns / groups, known));
    t.insert(format!("{module}.biases"), sides(biases, columns / groups, known));
    Ok(())
}

/// Experts in NVFP4 as one tensor, `from` [E, n I, D / 2] with `_weight_scale` [E, n I, D / 16] and `_weight_scale_2`
/// [E, n], become n modules (gate and up; muse_spark); false where they are not packed.
///
/// # Errors
/// Shapes that do not belong together.
pub fn split_nvfp4_experts(t: &mut Tensors, from: &str, to: &[String]) -> Result<bool> {
    let at = |part: &str| format!("{from}_{part}");
    if !t.has(&at("weight_scale")) {
        return Ok(false);
    }
    t.remove(&at("input_scale"));
    let (w, scales, whole) = (t.take(from)?, t.take(&at("weight_scale"))?, t.take_exact(&at("weight_scale_2"))?);
    let n = to.len() as i32;
    let fits = matches!((w.shape(), scales.shape()), (&[e, r, b], &[f, q, g])
        if (e, r, b) == (f, q, 8 * g) && r % n == 0 && whole.size() as i64 == i64::from(e) * i64::from(n));
    if !fits {
        let shapes = [&w, &scales, &whole].map(|a| a.shape().to_vec());
        return Err(Error::tensor(
            from,
            format!("weight, scales and scales of experts {shapes:?} do not fit {n} parts"),
        ));
    }
    let (words, rows) = (w.view(mx::Dtype::Uint32), w.dim(1) / n);
    let whole = whole.reshape([-1, n]).astype(mx::Dtype::Float32) * NVFP4_LARGEST;
    for (i, to) in (0..n).zip(to) {
        let cut = |a: &Array| mx::contiguous(&a.slice_axis(1, i * rows..(i + 1) * rows));
        t.insert(format!("{to}.weight"), cut(&words));
        t.insert(format!("{to}.scales"), cut(&scales));
        t.insert(format!("{to}.global_scale"), mx::contiguous(&whole.slice_axis(1, i..i + 1).squeeze(1)));
    }
    Ok(true)
}
