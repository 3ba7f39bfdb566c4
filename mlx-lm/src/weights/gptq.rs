//! AutoAWQ's and GPTQ's packed columns in MLX's affine form.

use super::Tensors;
use super::foreign::{known_groups, sides};
use crate::{Error, Result};
use mlx::{self as mx, Array, Quant};

/// Brings all modules into MLX's form: `qweight` with `scales` [groups, out] and `qzeros` [groups, out * bits / 32]. GPTQ
/// packs codes of successive inputs, [in * bits / 32, out], AutoAWQ eight outputs in an order of its own, [in, out / 8].
/// `from_one`: stored zeros are one less than they are (GPTQ, but for its second format).
pub(super) fn place_all(t: &mut Tensors, bits: i32, group: i32, from_one: bool) -> Result<()> {
    for name in t.select(|n| n.ends_with(".qweight")) {
        let module = name.trim_end_matches(".qweight");
        let at = |leaf: &str| format!("{module}.{leaf}");
        let (words, scales) = (t.take(&name)?, t.take(&at("scales"))?);
        let zeros = if t.has(&at("qzeros")) { Some(t.take(&at("qzeros"))?) } else { None };
        let groups = if t.has(&at("g_idx")) { Some(t.take(&at("g_idx"))?) } else { None };
        let (&[rows, columns], Some(&out)) = (words.shape(), scales.shape().last()) else {
            return Err(Error::tensor(&name, format!("{:?} is not packed columns", words.shape())));
        };
        let (mut weight, zeros) = if columns == out {
            let zeros = zeros.map(|z| mx::catch(|| unpack(&z, bits))).transpose()?;
            let from = if from_one { 1.0 } else { 0.0 };
            (mx::contiguous(&words.view(mx::Dtype::Uint32).t()), zeros.map(|z| z + from))
        } else if bits == 4 && columns * 8 == out {
            let weight = mx::catch(|| pack(&interleaved(&words).t(), 4))?;
            (weight, zeros.map(|z| mx::catch(|| interleaved(&z).astype(mx::Dtype::Float32))).transpose()?)
        } else {
            return Err(Error::tensor(&name, format!("{:?} is not {bits}-bit codes of {out} columns", words.shape())));
        };
        let inputs = mx::catch(|| weight.dim(-1) * 32 / bits)?;
        let group = if group > 0 { group } else { inputs };
        if inputs != scales.dim(0) * group {
            return Err(Error::tensor(&name, format!("[{rows}, {columns}] codes do not make groups of {group}")));
        }
        if let Some(groups) = groups
            && let Some(o) = order(t, &at("g_idx"), &groups, inputs)?
        {
            weight = mx::catch(|| reorder(&weight, &o, bits))?;
            t.insert(at("order"), o);
        }
        let wide = scales.t().astype(mx::Dtype::Float32);
        let half = (1 << (bits - 1)) as f32;
        if zeros.as_ref().is_some_and(|z| z.shape() != scales.shape()) {
            return Err(Error::tensor(at("qzeros"), format!("does not hold a zero for each of {:?}", scales.shape())));
        }
        let biases = zeros.map_or_else(|| &wide * -half, |z| -z.t() * &wide).astype(scales.dtype());
        let known = known_groups(group).map_err(|m| Error::tensor(&name, m))?;
        t.insert(at("weight"), weight);
        t.insert(at("scales"), sides(mx::contiguous(&scales.t()), group, known));
        t.insert(at("biases"), sides(mx::contiguous(&biases), group, known));
    }
    Ok(())
}

/// Codes [rows, 8 * words] of AutoAWQ's words: code i stands at place (0, 4, 1, 5, 2, 6, 3, 7)[i].
fn interleaved(words: &Array) -> Array {
    let shifts = Array::from([0u32, 16, 4, 20, 8, 24, 12, 28]);
    ((words.view(mx::Dtype::Uint32).expand_dims(-1) >> shifts) & Array::from(15u32)).flatten(-2, -1)
}

/// Codes [rows, 32 * words / bits] of words, lowest bits first, as float32.
pub(super) fn unpack(words: &Array, bits: i32) -> Array {
    let words = mx::contiguous(&words.view(mx::Dtype::Uint32));
    let [rows, n] = words.dims();
    // as an affine weight of scale 1 and no offset
    let [one, zero] = [1.0, 0.0].map(|v| mx::full([rows, n / bits], v, Some(mx::Dtype::Float32)));
    mx::dequantize(&words, &one, Some(&zero), Quant::affine(32, bits), None)
}

/// Words of codes [rows, n] whose bits divide a word.
fn pack(codes: &Array, bits: i32) -> Array {
    let [rows, n] = codes.dims();
    let per_word = 32 / bits;
    let places = Array::from((0..per_word).map(|i| (bits * i) as u32).collect::<Vec<_>>());
    (codes.astype(mx::Dtype::Uint32).reshape([rows, n / per_word, per_word]) << places)
        .sum(-1)
        .astype(mx::Dtype::Uint32)
}

/// The columns in the order of their groups `[in]`; `None` where they are so already.
///
/// # Errors
/// Groups of unequal sizes.
pub(super) fn order(t: &Tensors, name: &str, groups: &Array, inputs: i32) -> Result<Option<Array>> {
    if groups.shape() != [inputs] {
        return Err(Error::tensor(name, format!("shape {:?}, expected [{inputs}]", groups.shape())));
    }
    if t.is_outline() {
        return Ok(None);
    }
    let ids: Vec<i32> = groups.astype(mx::Dtype::Int32).to_vec()?;
    let mut order: Vec<u32> = (0..inputs as u32).collect();
    order.sort_by_key(|&i| ids[i as usize]);
    let count = ids.iter().max().map_or(1, |m| m + 1);
    let even = count > 0 && inputs % count == 0;
    if !even || order.iter().enumerate().any(|(at, &i)| ids[i as usize] != at as i32 / (inputs / count)) {
        return Err(Error::tensor(name, "its groups are not of one size"));
    }
    Ok(order.iter().enumerate().any(|(at, &i)| at as u32 != i).then(|| Array::from(order)))
}

/// Packed columns in another order.
pub(super) fn reorder(weight: &Array, order: &Array, bits: i32) -> Array {
    pack(&unpack(weight, bits).take(order, -1), bits)
}
