//! GGUF blocks → MLX's packed form without loss: `w = scale * q + bias` along the last axis, or mode mxfp4.
//!
//! MLX stores codes as one little-endian bit stream per row; a GGUF block shares bytes between elements that are 16
//! (or 32) apart, so codes are put back in order. Scales and biases are computed, never re-estimated.
use half::f16;
use rayon::prelude::*;

use super::blocks::{code_k, dequantize, five, half_at, nib, scale_min, supported};
use super::types::GgmlType;
use crate::config::{QuantMode, QuantParams};
use crate::weights::Dtype;

/// What a GGUF tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Kept packed; `scales` is the type that holds the scales and biases exactly.
    Packed { params: QuantParams, scales: Dtype },
    /// Dequantised or copied.
    Dense,
}

/// The form of a type. Packed: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 (f16 scales), Q4_K Q5_K (f32 scales), MXFP4.
///
/// `None`: this type cannot be read. Groups of 16 (Q2_K, Q3_K, Q6_K) have no packed form in MLX.
pub fn form(ty: GgmlType) -> Option<Form> {
    let packed = |bits, scales| Some(Form::Packed { params: QuantParams::affine(32, bits), scales });
    match ty {
        GgmlType::Q4_0 | GgmlType::Q4_1 => packed(4, Dtype::F16),
        GgmlType::Q5_0 | GgmlType::Q5_1 => packed(5, Dtype::F16),
        GgmlType::Q8_0 => packed(8, Dtype::F16),
        GgmlType::Q4_K => packed(4, Dtype::F32),
        GgmlType::Q5_K => packed(5, Dtype::F32),
        GgmlType::MXFP4 => Some(Form::Packed { params: QuantMode::Mxfp4.defaults(), scales: Dtype::U8 }),
        ty => supported(ty).then_some(Form::Dense),
    }
}

/// The packed codes: little-endian u32 words, `bits` per element, rows of whole words.
pub fn weight(ty: GgmlType, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let bits = match form(ty) {
        Some(Form::Packed { params, .. }) => params.bits,
        _ => return Err(format!("GGUF type {ty} has no packed form")),
    };
    let (size, packed) = (ty.block_bytes(), ty.block() * bits / 8);
    let mut out = vec![0u8; whole(ty, bytes)? * packed];
    out.par_chunks_mut(packed * 512).zip(bytes.par_chunks(size * 512)).for_each(|(out, bytes)| {
        for (out, b) in out.chunks_exact_mut(packed).zip(bytes.chunks_exact(size)) {
            match ty {
                GgmlType::Q4_0 => pack(out, 4, |i| nib(&b[2..], i)),
                GgmlType::Q4_1 => pack(out, 4, |i| nib(&b[4..], i)),
                GgmlType::Q5_0 => pack(out, 5, |i| five(&b[2..], i)),
                GgmlType::Q5_1 => pack(out, 5, |i| five(&b[4..], i)),
                GgmlType::Q8_0 => pack(out, 8, |i| b[2 + i] ^ 0x80),
                GgmlType::MXFP4 => pack(out, 4, |i| nib(&b[1..], i)),
                _ => pack(out, bits, |i| code_k(b, i, bits)),
            }
        }
    });
    Ok(out)
}

/// Writes codes as a bit stream, lowest bits first.
fn pack(out: &mut [u8], bits: usize, code: impl Fn(usize) -> u8) {
    match bits {
        4 => out.iter_mut().enumerate().for_each(|(j, o)| *o = code(2 * j) | code(2 * j + 1) << 4),
        8 => out.iter_mut().enumerate().for_each(|(j, o)| *o = code(j)),
        // five bytes hold eight codes
        _ => out.chunks_exact_mut(5).enumerate().for_each(|(j, five)| {
            let word = (0..8).fold(0u64, |w, i| w | (code(8 * j + i) as u64) << (5 * i));
            five.copy_from_slice(&word.to_le_bytes()[..5]);
        }),
    }
}

/// The scales, one per 32 elements, as `dtype` (F16, or F32; U8 exponents for MXFP4).
pub fn scales(ty: GgmlType, bytes: &[u8], dtype: Dtype) -> Result<Vec<u8>, String> {
    if ty == GgmlType::MXFP4 {
        whole(ty, bytes)?;
        return Ok(bytes.chunks_exact(ty.block_bytes()).map(|b| b[0]).collect());
    }
    per_group(ty, bytes, dtype, |b, k| match ty {
        GgmlType::Q4_K | GgmlType::Q5_K => half_at(b, 0) * scale_min(&b[4..16], k).0 as f32,
        _ => half_at(b, 0),
    })
}

/// The biases, one per 32 elements, as `dtype` (F16 or F32). MXFP4 has none.
pub fn biases(ty: GgmlType, bytes: &[u8], dtype: Dtype) -> Result<Vec<u8>, String> {
    per_group(ty, bytes, dtype, |b, k| match ty {
        GgmlType::Q4_0 => -8.0 * half_at(b, 0),
        GgmlType::Q5_0 => -16.0 * half_at(b, 0),
        GgmlType::Q8_0 => -128.0 * half_at(b, 0),
        GgmlType::Q4_1 | GgmlType::Q5_1 => half_at(b, 2),
        _ => -(half_at(b, 2) * scale_min(&b[4..16], k).1 as f32),
    })
}

fn per_group(
    ty: GgmlType,
    bytes: &[u8],
    dtype: Dtype,
    value: impl Fn(&[u8], usize) -> f32 + Sync,
) -> Result<Vec<u8>, String> {
    if !matches!(form(ty), Some(Form::Packed { params, .. }) if params.mode == QuantMode::Affine) {
        return Err(format!("GGUF type {ty} has no scales and biases"));
    }
    let groups = ty.block() / 32;
    let values = (0..whole(ty, bytes)? * groups).map(|g| {
        let start = g / groups * ty.block_bytes();
        value(&bytes[start..start + ty.block_bytes()], g % groups)
    });
    let mut out = Vec::with_capacity(values.len() * dtype.size());
    match dtype {
        Dtype::F32 => values.for_each(|v| out.extend(v.to_le_bytes())),
        Dtype::F16 => {
            let exact = matches!(form(ty), Some(Form::Packed { scales: Dtype::F16, .. }));
            for (g, v) in values.enumerate() {
                let h = f16::from_f32(v);
                if (exact && h.to_f32() != v && !v.is_nan()) || (h.is_infinite() && v.is_finite()) {
                    return Err(format!("{v} in group {g} of a {ty} tensor does not fit f16: open it with f32 scales"));
                }
                out.extend(h.to_le_bytes());
            }
        }
        other => return Err(format!("scales cannot be {other}")),
    }
    Ok(out)
}

/// Dequantises to `dtype`: F32, F16 (rounded; an overflow is an error) or BF16 (rounded).
pub fn dense(ty: GgmlType, bytes: &[u8], dtype: Dtype) -> Result<Vec<u8>, String> {
    let n = whole(ty, bytes)? * ty.block();
    let mut out = vec![0u8; n * dtype.size()];
    // by pieces, so that no f32 copy of the whole exists
    const PIECE: usize = 1 << 16;
    let piece_bytes = PIECE / ty.block() * ty.block_bytes();
    out.par_chunks_mut(PIECE * dtype.size()).zip(bytes.par_chunks(piece_bytes)).try_for_each(|(out, bytes)| {
        let mut values = vec![0f32; out.len() / dtype.size()];
        dequantize(ty, bytes, &mut values)?;
        narrow(&values, dtype, out)
    })?;
    Ok(out)
}

/// Rounds f32 values to `dtype` (F32, F16, BF16), little endian.
pub(super) fn narrow(values: &[f32], dtype: Dtype, out: &mut [u8]) -> Result<(), String> {
    for (v, out) in values.iter().zip(out.chunks_exact_mut(dtype.size())) {
        match dtype {
            Dtype::F32 => out.copy_from_slice(&v.to_le_bytes()),
            Dtype::BF16 => out.copy_from_slice(&half::bf16::from_f32(*v).to_le_bytes()),
            Dtype::F16 => {
                let h = f16::from_f32(*v);
                if h.is_infinite() && v.is_finite() {
                    return Err(format!("{v} does not fit f16: open it with another dense type"));
                }
                out.copy_from_slice(&h.to_le_bytes());
            }
            other => return Err(format!("weights cannot be dequantised to {other}")),
        }
    }
    Ok(())
}

/// Undoes llama.cpp's order of q and k rows: per head of D rows, `out[a * D/2 + b] = in[2b + a]`.
///
/// Moves whole rows, so it serves packed codes, scales, biases and dense weights alike.
pub fn unpermute(bytes: &[u8], rows: usize, heads: usize) -> Result<Vec<u8>, String> {
    if heads == 0 || rows == 0 || !rows.is_multiple_of(2 * heads) || !bytes.len().is_multiple_of(rows) {
        return Err(format!("{rows} rows do not split into {heads} heads of an even size"));
    }
    let (row, dim) = (bytes.len() / rows, rows / heads);
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for i in 0..dim {
            let from = head * dim + 2 * (i % (dim / 2)) + i / (dim / 2);
            out.extend_from_slice(&bytes[from * row..(from + 1) * row]);
        }
    }
    Ok(out)
}

/// Number of blocks; an error unless they are whole.
fn whole(ty: GgmlType, bytes: &[u8]) -> Result<usize, String> {
    match bytes.len() % ty.block_bytes() {
        0 => Ok(bytes.len() / ty.block_bytes()),
        _ => Err(format!("{} bytes are no whole {ty} blocks", bytes.len())),
    }
}
