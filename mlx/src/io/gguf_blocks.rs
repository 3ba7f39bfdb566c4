//! Block-quantised GGUF types that MLX has no packed form for, as dense numbers.

use half::f16;

/// (elements, bytes) of one block of a type that is decoded here.
pub(super) fn size(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        6 => (32, 22),
        7 => (32, 24),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        20 => (32, 18),
        39 => (32, 17),
        _ => return None,
    })
}

fn half_at(b: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([b[i], b[i + 1]]).to_f32()
}

/// Element i of 32 nibbles: the low halves come first.
fn nibble(q: &[u8], i: usize) -> u8 {
    if i < 16 { q[i] & 15 } else { q[i - 16] >> 4 }
}

const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
const FP4: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, -0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Scale and minimum of part k of a Q4_K or Q5_K block: six bits each, packed into 12 bytes.
fn scale_min(sc: &[u8], k: usize) -> (f32, f32) {
    let (s, m) = if k < 4 {
        (sc[k] & 63, sc[k + 4] & 63)
    } else {
        (sc[k + 4] & 15 | sc[k - 4] >> 6 << 4, sc[k + 4] >> 4 | sc[k] >> 6 << 4)
    };
    (f32::from(s), f32::from(m))
}

/// The elements of one block, which has the bytes that [`size`] says.
pub(super) fn decode(kind: u32, b: &[u8]) -> Vec<f32> {
    let n = size(kind).map_or(0, |(n, _)| n as usize);
    let high = |at: usize, i: usize| (u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]) >> i & 1) as u8;
    let element = |i: usize| -> f32 {
        let (h, s, l, g, k) = (i / 128, i % 128 / 32, i % 32, i / 16, i / 32);
        match kind {
            6 => half_at(b, 0) * (f32::from(nibble(&b[6..], i) | high(2, i) << 4) - 16.0),
            7 => half_at(b, 0) * f32::from(nibble(&b[8..], i) | high(4, i) << 4) + half_at(b, 2),
            10 => {
                let q = b[16 + 32 * h + l] >> (2 * s) & 3;
                half_at(b, 80) * f32::from(b[g] & 15) * f32::from(q) - half_at(b, 82) * f32::from(b[g] >> 4)
            }
            11 => {
                let sc = &b[96..108];
                let low = if g < 8 { sc[g] & 15 } else { sc[g - 8] >> 4 };
                let scale = f32::from(low | (sc[8 + g % 4] >> (2 * (g / 4)) & 3) << 4) - 32.0;
                let q = f32::from(b[32 + 32 * h + l] >> (2 * s) & 3);
                let missing = if b[l] >> (4 * h + s) & 1 == 1 { 0.0 } else { 4.0 };
                half_at(b, 108) * scale * (q - missing)
            }
            12 | 13 => {
                let (scale, min) = scale_min(&b[4..16], k);
                let qs = if kind == 12 { 16 } else { 48 };
                let mut q = b[qs + 32 * (k / 2) + l] >> (4 * (k & 1)) & 15;
                if kind == 13 {
                    q |= (b[16 + l] >> k & 1) << 4;
                }
                half_at(b, 0) * scale * f32::from(q) - half_at(b, 2) * min
            }
            14 => {
                let low = b[64 * h + i % 64] >> (if i % 128 >= 64 { 4 } else { 0 }) & 15;
                let q = low | (b[128 + 32 * h + l] >> (2 * s) & 3) << 4;
                half_at(b, 208) * f32::from(b[192 + g] as i8) * (f32::from(q) - 32.0)
            }
            20 => half_at(b, 0) * f32::from(IQ4[nibble(&b[2..], i) as usize]),
            _ => 2f32.powi(i32::from(b[0]) - 128) * FP4[nibble(&b[1..], i) as usize],
        }
    };
    (0..n).map(element).collect()
}
