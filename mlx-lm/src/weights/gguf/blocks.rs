//! The block formats, dequantised: `value = formula of the block's bytes` in f32, element by element.
//!
//! All multi-byte fields are little endian; `d`, `m`, `dmin` are f16.
use half::{bf16, f16};
use rayon::prelude::*;

use super::types::GgmlType;

/// Values of IQ4_NL and IQ4_XS codes.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the E2M1 values.
const FP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

type Decode = fn(&[u8], &mut [f32]);

/// This type can be dequantised.
pub fn supported(ty: GgmlType) -> bool {
    decoder(ty).is_some()
}

/// Dequantises whole blocks. `bytes` and `out` must have the same number of blocks.
///
/// Errors: a type without decoder, lengths that do not fit.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
    let Some(decode) = decoder(ty) else {
        return Err(format!("GGUF type {ty} cannot be read"));
    };
    let (elems, size) = (ty.block(), ty.block_bytes());
    if !bytes.len().is_multiple_of(size) || bytes.len() / size * elems != out.len() {
        return Err(format!("{} bytes of {ty} do not make {} elements", bytes.len(), out.len()));
    }
    // pieces of about 16k elements
    let blocks = 16384 / elems;
    out.par_chunks_mut(blocks * elems).zip(bytes.par_chunks(blocks * size)).for_each(|(out, bytes)| {
        for (out, block) in out.chunks_exact_mut(elems).zip(bytes.chunks_exact(size)) {
            decode(block, out);
        }
    });
    Ok(())
}

fn decoder(ty: GgmlType) -> Option<Decode> {
    Some(match ty {
        GgmlType::F32 => |b, y| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        GgmlType::F16 => |b, y| y[0] = half_at(b, 0),
        GgmlType::BF16 => |b, y| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        GgmlType::Q4_0 => |b, y| each(y, |i| half_at(b, 0) * (nib(&b[2..], i) as f32 - 8.0)),
        GgmlType::Q4_1 => |b, y| each(y, |i| half_at(b, 0) * nib(&b[4..], i) as f32 + half_at(b, 2)),
        GgmlType::Q5_0 => |b, y| each(y, |i| half_at(b, 0) * (five(&b[2..], i) as f32 - 16.0)),
        GgmlType::Q5_1 => |b, y| each(y, |i| half_at(b, 0) * five(&b[4..], i) as f32 + half_at(b, 2)),
        GgmlType::Q8_0 => |b, y| each(y, |i| half_at(b, 0) * (b[2 + i] as i8) as f32),
        GgmlType::Q2_K => q2_k,
        GgmlType::Q3_K => q3_k,
        GgmlType::Q4_K => |b, y| q45_k(b, y, 4),
        GgmlType::Q5_K => |b, y| q45_k(b, y, 5),
        GgmlType::Q6_K => q6_k,
        GgmlType::IQ4_NL => |b, y| each(y, |i| half_at(b, 0) * IQ4[nib(&b[2..], i) as usize] as f32),
        GgmlType::IQ4_XS => iq4_xs,
        GgmlType::MXFP4 => |b, y| each(y, |i| exp2(b[0]) * FP4[nib(&b[1..], i) as usize] as f32),
        _ => return None,
    })
}

fn each(y: &mut [f32], f: impl Fn(usize) -> f32) {
    y.iter_mut().enumerate().for_each(|(i, y)| *y = f(i));
}

/// The f16 at byte `at`, widened.
pub(super) fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// 4-bit code `i` of a 32-block: elements j and j + 16 share byte j.
pub(super) fn nib(qs: &[u8], i: usize) -> u8 {
    let byte = qs[i % 16];
    if i < 16 { byte & 15 } else { byte >> 4 }
}

/// 5-bit code `i`: a u32 of high bits, then 16 bytes of nibbles.
pub(super) fn five(b: &[u8], i: usize) -> u8 {
    let high = u32::from_le_bytes([b[0], b[1], b[2], b[3]]) >> i & 1;
    nib(&b[4..], i) | (high as u8) << 4
}

/// 2^(e - 128), the scale of MXFP4 halves; subnormal for e = 0 and 1.
fn exp2(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        e => (e as u32 - 1) << 23,
    })
}

/// Scale and minimum of sub-block `k` of Q4_K and Q5_K (6 bits each, 12 bytes for 8 pairs).
pub(super) fn scale_min(sc: &[u8], k: usize) -> (u8, u8) {
    if k < 4 {
        (sc[k] & 63, sc[k + 4] & 63)
    } else {
        (sc[k + 4] & 15 | sc[k - 4] >> 6 << 4, sc[k + 4] >> 4 | sc[k] >> 6 << 4)
    }
}

/// Code `i` of a Q4_K (`bits` 4) or Q5_K (5) block.
pub(super) fn code_k(b: &[u8], i: usize, bits: usize) -> u8 {
    let (k, l) = (i / 32, i % 32);
    let low = |qs: &[u8]| qs[32 * (k / 2) + l] >> (4 * (k & 1)) & 15;
    match bits {
        4 => low(&b[16..]),
        _ => low(&b[48..]) | (b[16 + l] >> k & 1) << 4,
    }
}

fn q45_k(b: &[u8], y: &mut [f32], bits: usize) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for k in 0..8 {
        let (sc, m) = scale_min(&b[4..16], k);
        let (scale, min) = (d * sc as f32, dmin * m as f32);
        each(&mut y[32 * k..32 * (k + 1)], |l| scale * code_k(b, 32 * k + l, bits) as f32 - min);
    }
}

fn q2_k(b: &[u8], y: &mut [f32]) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    each(y, |i| {
        let (h, s, l) = (i / 128, i % 128 / 32, i % 32);
        let sc = b[i / 16];
        let q = b[16 + 32 * h + l] >> (2 * s) & 3;
        d * (sc & 15) as f32 * q as f32 - dmin * (sc >> 4) as f32
    });
}

fn q3_k(b: &[u8], y: &mut [f32]) {
    let (hm, qs, sc, d) = (&b[..32], &b[32..96], &b[96..108], half_at(b, 108));
    each(y, |i| {
        let (h, s, l, g) = (i / 128, i % 128 / 32, i % 32, i / 16);
        let low = if g < 8 { sc[g] & 15 } else { sc[g - 8] >> 4 };
        let high = sc[8 + g % 4] >> (2 * (g / 4)) & 3;
        let scale = (low | high << 4) as i32 - 32;
        let q = (qs[32 * h + l] >> (2 * s) & 3) as i32 - if hm[l] >> (4 * h + s) & 1 == 1 { 0 } else { 4 };
        d * scale as f32 * q as f32
    });
}

fn q6_k(b: &[u8], y: &mut [f32]) {
    let (ql, qh, sc, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    each(y, |i| {
        let (h, s, l) = (i / 128, i % 128 / 32, i % 32);
        let low = ql[64 * h + i % 64] >> (if i % 128 >= 64 { 4 } else { 0 }) & 15;
        let high = qh[32 * h + l] >> (2 * s) & 3;
        d * (sc[i / 16] as i8) as f32 * ((low | high << 4) as i32 - 32) as f32
    });
}

fn iq4_xs(b: &[u8], y: &mut [f32]) {
    let (d, high) = (half_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for k in 0..8 {
        let low = b[4 + k / 2] >> (4 * (k % 2)) & 15;
        let scale = d * ((low as i32 | ((high >> (2 * k) & 3) as i32) << 4) - 32) as f32;
        each(&mut y[32 * k..32 * (k + 1)], |l| scale * IQ4[nib(&b[8 + 16 * k..], l) as usize] as f32);
    }
}
