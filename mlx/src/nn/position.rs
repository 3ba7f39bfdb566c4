//! Positions: rotary, sinusoidal and linear-bias encodings.

use super::Module;
use crate::error::refuse;
use crate::{Array, Dtype, fast};

/// Rotary position embedding (`nn.RoPE`).
#[derive(Debug, Clone, Module)]
pub struct Rope {
    /// How many leading features rotate.
    pub dims: i32,
    /// Pairs are neighbours (true) or halves (false).
    pub traditional: bool,
    pub base: f32,
    /// Factor on positions.
    pub scale: f32,
    /// Explicit wavelengths [dims / 2] in place of `base`; not a parameter.
    pub freqs: Option<Array>,
}

impl Rope {
    /// Base 10000, scale 1.
    pub fn new(dims: i32, traditional: bool) -> Self {
        Rope { dims, traditional, base: 10000.0, scale: 1.0, freqs: None }
    }

    /// x: [..., L, D] -> [..., L, D]; `offset` is the position of the first token.
    #[track_caller]
    pub fn forward<'o>(&self, x: &Array, offset: impl Into<fast::Offset<'o>>) -> Array {
        let Rope { dims, traditional, base, scale, ref freqs } = *self;
        fast::rope(x, fast::Rope { dims, traditional, base, scale, freqs: freqs.as_ref() }, offset)
    }
}

/// Sines and cosines of the input at `dims / 2` frequencies (`nn.SinusoidalPositionalEncoding`).
#[derive(Debug, Clone, Module)]
pub struct SinusoidalPositionalEncoding {
    sigmas: Array,
    pub scale: f64,
    /// Cosines come first.
    pub cos_first: bool,
}

impl SinusoidalPositionalEncoding {
    /// Frequencies from 1 down to 0.0001, scale sqrt(2 / dims), sines first.
    #[track_caller]
    pub fn new(dims: i32) -> Self {
        SinusoidalPositionalEncoding::with_range(dims, 0.0001, 1.0, false)
    }

    /// Frequencies from `max_freq` down to `min_freq`, in turns if `full_turns`.
    #[track_caller]
    pub fn with_range(dims: i32, min_freq: f64, max_freq: f64, full_turns: bool) -> Self {
        if dims <= 0 || dims % 2 != 0 {
            refuse("SinusoidalPositionalEncoding", format!("dims must be positive and even, not {dims}"));
        }
        let half = dims / 2;
        let fall = match half {
            1 => Array::from([1.0f32]),
            _ => 1 - crate::arange(0, half, 1, None) / (half - 1),
        };
        let (low, high) = (min_freq.ln(), max_freq.ln());
        let mut sigmas = (fall * (high - low) + low).exp();
        if full_turns {
            sigmas = sigmas * std::f64::consts::TAU;
        }
        SinusoidalPositionalEncoding { sigmas, scale: (2.0 / f64::from(dims)).sqrt(), cos_first: false }
    }

    /// x: [...] -> [..., dims]
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Array {
        let y = x.expand_dims(-1) * &self.sigmas;
        let (sin, cos) = (y.sin(), y.cos());
        let y = crate::concatenate(&if self.cos_first { [cos, sin] } else { [sin, cos] }, -1);
        if self.scale == 1.0 { y } else { y * self.scale }
    }
}

/// Attention with linear biases (`nn.ALiBi`).
#[derive(Debug, Clone, Copy, Default, Module)]
pub struct ALiBi;

impl ALiBi {
    /// Slope of each head: [heads, 1, 1].
    #[track_caller]
    pub fn create_alibi_slope(heads: i32, dtype: Dtype) -> Array {
        fn slopes(n: usize) -> Vec<f64> {
            let log = (n as f64).log2();
            if log.fract() == 0.0 {
                let start = 2f64.powf(-2f64.powf(-(log - 3.0)));
                return (0..n).map(|i| start * start.powi(i as i32)).collect();
            }
            let closest = 1 << log.floor() as u32;
            let mut all = slopes(closest);
            all.extend(slopes(2 * closest).into_iter().step_by(2).take(n - closest));
            all
        }
        if heads < 1 {
            refuse("ALiBi", format!("{heads} heads"));
        }
        let v: Vec<f32> = slopes(heads as usize).into_iter().map(|s| s as f32).collect();
        Array::from(v).astype(dtype).expand_dims([-1, -2])
    }

    /// -slope * distance for queries `offset..q` and keys `0..k`: [1, heads, q - offset, k].
    #[track_caller]
    pub fn create_alibi_matrix(q: i32, k: i32, heads: i32, offset: i32, dtype: Dtype) -> Array {
        let (x1, x2) = (crate::arange(offset, q, 1, None), crate::arange(0, k, 1, None));
        let distance = -(x1.expand_dims(1) - x2.expand_dims(0)).expand_dims([0, 1]).abs();
        (distance * ALiBi::create_alibi_slope(heads, dtype)).astype(dtype)
    }

    /// Adds the biases, and the mask, to attention scores [B, H, L, S].
    #[track_caller]
    pub fn forward(&self, scores: &Array, offset: i32, mask: Option<&Array>) -> Array {
        let (q, k) = (scores.dim(-2) + offset, scores.dim(-1));
        let mut bias = ALiBi::create_alibi_matrix(q, k, scores.dim(1), offset, scores.dtype());
        if let Some(mask) = mask {
            bias = bias + mask;
        }
        scores + bias
    }
}
