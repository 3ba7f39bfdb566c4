//! Rotary embeddings: blueprint data made into frequencies.

use crate::blueprint::{self, RopeScaling};
use crate::cache::Position;
use mlx::{self as mx, Array};
use std::cell::OnceCell;
use std::f64::consts::PI;

/// A rotary embedding ready to run.
#[derive(Debug, Clone)]
pub struct Rope {
    dims: i32,
    traditional: bool,
    base: f32,
    /// Factor on positions.
    scale: f32,
    /// Explicit wavelengths in place of the base.
    freqs: Option<Array>,
    /// Factor on the rotated features.
    feature_scale: f32,
    dynamic: Option<(f64, i32)>,
    /// float32 [dims / 2], made when a decode kernel first asks.
    radians: OnceCell<Array>,
}

/// In float32 and Python's order of operations, as are the scalings below: at a late position the last bit of a
/// wavelength is a visible turn.
fn wavelengths(dims: i32, base: f64) -> Vec<f32> {
    (0..dims / 2).map(|i| (base as f32).powf((2 * i) as f32 / dims as f32)).collect()
}

fn mscale(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

impl Rope {
    pub fn new(spec: &blueprint::Rope) -> Self {
        let mut rope = Rope {
            dims: spec.dims,
            traditional: spec.traditional,
            base: spec.base as f32,
            scale: 1.0,
            freqs: None,
            feature_scale: 1.0,
            dynamic: None,
            radians: OnceCell::new(),
        };
        let plain = || wavelengths(spec.dims, spec.base);
        let mut explicit = |f: Vec<f32>| rope.freqs = Some(Array::from(f));
        match &spec.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear(factor) => rope.scale = (1.0 / factor) as f32,
            RopeScaling::Dynamic { factor, max_position } => rope.dynamic = Some((*factor, *max_position)),
            RopeScaling::Llama3 { factor, low, high, original } => {
                explicit(llama3(plain(), *factor, *low, *high, *original))
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, mscale: m, mscale_all_dim } => {
                explicit(yarn(plain(), spec, *factor, *original, *beta_fast, *beta_slow));
                rope.feature_scale = (mscale(*factor, *m) / mscale(*factor, *mscale_all_dim)) as f32;
            }
            RopeScaling::Long { factors, scale } => {
                let factor = |i: usize| factors.get(i).or(factors.last()).copied().unwrap_or(1.0) as f32;
                explicit(plain().into_iter().enumerate().map(|(i, f)| factor(i) * f).collect());
                rope.feature_scale = *scale as f32;
                // Python pairs halves here whatever the config says
                rope.traditional = false;
            }
            RopeScaling::Proportional { factor, rotated } => {
                let turns = |i: usize| 2 * (i as i32) < *rotated;
                let stretch = |(i, f)| if turns(i) { *factor as f32 * f } else { f32::INFINITY };
                explicit(plain().into_iter().enumerate().map(stretch).collect());
            }
            RopeScaling::Wavelengths(w) => explicit(w.clone()),
        }
        rope
    }

    /// Rotates x [B, H, L, D] whose first token stands at `position`.
    pub fn forward(&self, x: &Array, position: &Position) -> Array {
        let scaled;
        let x = if self.feature_scale == 1.0 {
            x
        } else {
            scaled = scale_first(x, self.dims, self.feature_scale);
            &scaled
        };
        let base = match (self.dynamic, position) {
            (Some((factor, max)), Position::At(at)) => self.dynamic_base(factor, max, x.dim(-2) + at),
            (Some((factor, max)), Position::Rows(_)) => self.dynamic_base(factor, max, x.dim(-2)),
            (None, _) => self.base,
        };
        let options = mx::fast::Rope {
            dims: self.dims,
            traditional: self.traditional,
            base,
            scale: self.scale,
            freqs: self.freqs.as_ref(),
        };
        mx::fast::rope(x, options, position.offset())
    }

    /// How many features rotate.
    pub fn dims(&self) -> i32 {
        self.dims
    }

    /// The rotation back.
    pub fn inverse(&self) -> Rope {
        let plain = || Array::from(wavelengths(self.dims, self.base as f64));
        let freqs = -self.freqs.clone().unwrap_or_else(plain);
        let feature_scale = 1.0 / self.feature_scale;
        Rope { freqs: Some(freqs), feature_scale, radians: OnceCell::new(), ..self.clone() }
    }

    /// The rotation of rows that stand `ratio` positions apart.
    pub fn every(&self, ratio: i32) -> Rope {
        Rope { scale: self.scale * ratio as f32, radians: OnceCell::new(), ..self.clone() }
    }

    /// The same rotation for a decode kernel; `None` where it depends on more than the position.
    pub fn rotation(&self) -> Option<mx::fast::Rotation<'_>> {
        if self.dynamic.is_some() {
            return None;
        }
        let radians = self.radians.get_or_init(|| match &self.freqs {
            Some(f) => (self.scale / f).astype(mx::Dtype::Float32),
            None => {
                let (scale, base, d) = (self.scale as f64, self.base as f64, self.dims as f64);
                let radian = |i: i32| (scale / base.powf(2.0 * i as f64 / d)) as f32;
                Array::from((0..self.dims / 2).map(radian).collect::<Vec<_>>())
            }
        });
        let (traditional, feature_scale) = (self.traditional, self.feature_scale);
        Some(mx::fast::Rotation { radians, traditional, feature_scale })
    }

    /// The base for a call that ends at `len` (NTK-aware, recomputed for each call as in Python).
    fn dynamic_base(&self, factor: f64, max: i32, len: i32) -> f32 {
        let (len, max, d) = (len.max(max) as f64, max as f64, self.dims as f64);
        (self.base as f64 * (factor * len / max - (factor - 1.0)).powf(d / (d - 2.0))) as f32
    }
}

/// x with its first `dims` features times `scale`.
fn scale_first(x: &Array, dims: i32, scale: f32) -> Array {
    if x.dim(-1) == dims {
        return x * scale;
    }
    let head = x.slice_axis(-1, 0..dims) * scale;
    mx::concatenate(&[head, x.slice_axis(-1, dims..x.dim(-1))], -1)
}

/// Long wavelengths are stretched by `factor`, short ones kept, those between interpolated (Llama 3.1).
fn llama3(freqs: Vec<f32>, factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
    let (longest, shortest) = ((original / low) as f32, (original / high) as f32);
    let (factor, span) = (factor as f32, (high - low) as f32);
    freqs
        .into_iter()
        .map(|f| {
            let wave = (2.0 * PI) as f32 * f;
            if wave > longest {
                f * factor
            } else if wave > shortest {
                let smooth = (original as f32 / wave - low as f32) / span;
                f / ((1.0 - smooth) / factor + smooth)
            } else {
                f
            }
        })
        .collect()
}

/// Interpolation of slow dimensions only (YaRN, Peng et al. 2023).
fn yarn(freqs: Vec<f32>, spec: &blueprint::Rope, factor: f64, original: f64, fast: f64, slow: f64) -> Vec<f32> {
    let dims = spec.dims as f64;
    let dim_of = |rotations: f64| dims * (original / (rotations * 2.0 * PI)).ln() / (2.0 * spec.base.ln());
    let low = dim_of(fast).floor().max(0.0);
    let mut high = dim_of(slow).ceil().min(dims - 1.0);
    if low == high {
        high += 0.001;
    }
    let (low, span) = (low as f32, (high - low) as f32);
    freqs
        .into_iter()
        .enumerate()
        .map(|(i, extra)| {
            let keep = 1.0 - ((i as f32 - low) / span).clamp(0.0, 1.0);
            let inter = factor as f32 * extra;
            (inter * extra) / (inter * keep + extra * (1.0 - keep))
        })
        .collect()
}
