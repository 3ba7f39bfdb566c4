//! The weight rule: a tensor from its name, shape, dtype and seed (stated in the goldens' README).

use half::{bf16, f16};

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn fnv(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}

/// The i-th raw number of a stream.
pub fn raw(base: u64, i: u64) -> u64 {
    let mut z = i.wrapping_add(base).wrapping_mul(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Where a tensor's stream starts.
pub fn base(name: &str, seed: u64) -> u64 {
    fnv(name).wrapping_add(seed.wrapping_mul(GOLDEN))
}

/// A number in [-1, 1).
pub fn unit(z: u64) -> f64 {
    (z >> 40) as f64 / (1u64 << 23) as f64 - 1.0
}

fn default_init(name: &str, shape: &[i32]) -> (f64, f64) {
    let low = name.to_lowercase();
    if shape.len() >= 2 {
        let fan = if shape.len() == 3 && low.contains("conv") { shape[1] * shape[2] } else { shape[shape.len() - 1] };
        return (0.0, 1.5 / (fan as f64).sqrt());
    }
    if name.ends_with("bias") {
        return (0.0, 0.2);
    }
    if name.ends_with("A_log") {
        return (0.5, 0.5);
    }
    let ends = ["scale", "scalar", ".D", "_gain"];
    if low.contains("norm") || low.contains("ln_") || ends.iter().any(|e| name.ends_with(e)) {
        return (1.0, 0.2);
    }
    (0.0, 0.2)
}

/// Storage bytes of a tensor.
pub fn tensor(name: &str, shape: &[i32], dtype: &str, seed: u64, init: Option<(f64, f64)>) -> Vec<u8> {
    let n: u64 = shape.iter().map(|&d| d as u64).product();
    let base = base(name, seed);
    let z = (0..n).map(|i| raw(base, i));
    let whole = |z: u64| init.map(|(o, s)| o as i64 + ((z >> 33) % s as u64) as i64);
    let (offset, scale) = init.unwrap_or_else(|| default_init(name, shape));
    let real = |z: u64| (offset + scale * unit(z)) as f32;
    match dtype {
        "U8" => z.map(|z| whole(z).map_or((z >> 56) as u8, |v| v as u8)).collect(),
        "TERNARY" => z
            .map(|z| {
                let b = (z >> 56) as u8;
                b & !(((b >> 1) & b & 0x55) << 1)
            })
            .collect(),
        "U32" => z.flat_map(|z| ((z >> 32) as u32).to_le_bytes()).collect(),
        "I32" => z.flat_map(|z| whole(z).map_or((z >> 32) as u32 as i32, |v| v as i32).to_le_bytes()).collect(),
        "I64" => z.flat_map(|z| whole(z).expect("I64 has bounds").to_le_bytes()).collect(),
        "SIGN" => z.flat_map(|z| (if z & 1 == 1 { -1.0f32 } else { 1.0 }).to_le_bytes()).collect(),
        "F8_E4M3" => z
            .map(|z| {
                let b = (z >> 56) as u8;
                if b & 0x7f == 0x7f { b ^ 8 } else { b }
            })
            .collect(),
        "BF16" => z.flat_map(|z| bf16::from_f32(real(z)).to_le_bytes()).collect(),
        "F16" => z.flat_map(|z| f16::from_f32(real(z)).to_le_bytes()).collect(),
        "F32" => z.flat_map(|z| real(z).to_le_bytes()).collect(),
        other => panic!("dtype {other} has no rule"),
    }
}

#[test]
fn the_rule_gives_the_stated_check_values() {
    let first = |name: &str, shape: &[i32], k: usize| -> Vec<f32> {
        tensor(name, shape, "F32", 1, None)
            .chunks(4)
            .take(k)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    assert_eq!(first("model.embed_tokens.weight", &[199, 64], 4), [-0.044328377, -0.16717589, 0.18187392, -0.18389243]);
    assert_eq!(first("model.norm.weight", &[64], 3), [0.9789232, 1.0110149, 1.0753113]);
}
