//! Values rounded to what 8- or 4-bit floats with a scale per block hold, in their own type.

use mlx::{self as mx, Array, Dtype};

/// Largest values of e4m3 and e2m1.
const FP8_MAX: f32 = 448.0;
const FP4_MAX: f32 = 6.0;

/// The type of the scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScaleType {
    PowerOfTwo,
    /// e4m3.
    Fp8,
}

/// x in float32 as [.., blocks, block] with the largest magnitude of each, at least `floor`; `None` where blocks do not
/// divide it.
fn blocks(x: &Array, block: i32, floor: f32) -> Option<(Array, Array)> {
    (x.dim(-1) % block == 0).then(|| {
        let b = x.astype(Dtype::Float32).unflatten(-1, [-1, block]);
        let largest = mx::maximum(b.abs().max_keepdims(-1), floor);
        (b, largest)
    })
}

/// The power of two that is at least x.
fn power_of_two(x: Array) -> Array {
    mx::power(2.0, x.log2().ceil())
}

/// x in e4m3 with power-of-two scales.
pub(super) fn to_fp8(x: &Array, block: i32) -> Array {
    let Some((b, largest)) = blocks(x, block, 1e-4) else { return x.clone() };
    let scale = power_of_two(largest / FP8_MAX);
    let codes = mx::to_fp8(&mx::clip(&b / &scale, Some(-FP8_MAX), Some(FP8_MAX)));
    (mx::from_fp8(&codes, Dtype::Float32) * scale).flatten(-2, -1).astype(x.dtype())
}

/// x in e2m1.
pub(super) fn to_fp4(x: &Array, block: i32, scales: ScaleType) -> Array {
    let smallest = match scales {
        ScaleType::PowerOfTwo => f32::MIN_POSITIVE,
        ScaleType::Fp8 => 2f32.powi(-9),
    };
    let Some((b, largest)) = blocks(x, block, FP4_MAX * smallest) else { return x.clone() };
    let scale = match scales {
        ScaleType::PowerOfTwo => power_of_two(largest / FP4_MAX),
        ScaleType::Fp8 => mx::from_fp8(&mx::to_fp8(&(largest / FP4_MAX)), Dtype::Float32),
    };
    let rounded = round_fp4(&mx::clip(&b / &scale, Some(-FP4_MAX), Some(FP4_MAX)));
    (rounded * scale).flatten(-2, -1).astype(x.dtype())
}

/// To the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6; halves to the even code.
fn round_fp4(x: &Array) -> Array {
    let size = x.abs();
    let mut code = mx::zeros(x.shape(), Dtype::Int32);
    for up in [0.25, 1.25, 2.5, 5.0] {
        code = code + size.gt(up).astype(Dtype::Int32);
    }
    for up in [0.75, 1.75, 3.5] {
        code = code + size.ge(up).astype(Dtype::Int32);
    }
    let values = Array::from([0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    x.sign() * values.take(&code, 0)
}
