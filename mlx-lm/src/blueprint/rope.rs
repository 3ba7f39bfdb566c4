//! Rotary embeddings as data.

use crate::config::{RopeConfig, RopeKind};

/// A rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// How many leading features of a head rotate.
    pub dims: i32,
    pub base: f64,
    /// Pairs are neighbours (true) or halves (false).
    pub traditional: bool,
    pub scaling: RopeScaling,
}

/// How frequencies or positions are stretched beyond the trained length.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by the factor.
    Linear(f64),
    /// Base grows with the length of the call; the trained length.
    Dynamic {
        factor: f64,
        max_position: i32,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    Yarn {
        factor: f64,
        original: f64,
        beta_fast: f64,
        beta_slow: f64,
        mscale: f64,
        mscale_all_dim: f64,
    },
    /// One factor per frequency, and one on the rotated features.
    Long {
        factors: Vec<f64>,
        scale: f64,
    },
    /// Frequencies of the whole head for its first rotated part.
    Proportional {
        factor: f64,
        rotated: i32,
    },
    /// Explicit wavelengths, one per pair.
    Wavelengths(Vec<f32>),
}

impl Rope {
    pub fn plain(dims: i32, base: f64) -> Self {
        Rope { dims, base, traditional: false, scaling: RopeScaling::None }
    }

    /// The opposite direction of rotation.
    pub fn backwards(dims: i32, base: f64) -> Self {
        let lengths = (0..dims / 2).map(|i| -base.powf(2.0 * i as f64 / dims as f64) as f32).collect();
        Rope { scaling: RopeScaling::Wavelengths(lengths), ..Rope::plain(dims, base) }
    }

    /// The first `share` of each head of `head_dim` features rotates.
    pub fn partial(c: &RopeConfig, head_dim: i32, share: f64, theta: f64) -> Self {
        let share = c.partial_rotary_factor.unwrap_or(share);
        Rope::from_config(c, (head_dim as f64 * share) as i32, theta)
    }

    pub fn traditional(mut self, on: bool) -> Self {
        self.traditional = on;
        self
    }

    /// From the config's rotary settings; `dims` are the rotated features, `theta` the family's default base.
    pub fn from_config(c: &RopeConfig, dims: i32, theta: f64) -> Self {
        let max = c.max_position_embeddings.unwrap_or(2048);
        let base = c.theta_or(theta);
        let scaling = match &c.kind {
            RopeKind::Linear { factor } => RopeScaling::Linear(*factor),
            RopeKind::Dynamic { factor } => RopeScaling::Dynamic { factor: *factor, max_position: max as i32 },
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => RopeScaling::Llama3 {
                factor: *factor,
                low: *low_freq_factor,
                high: *high_freq_factor,
                original: *original_max as f64,
            },
            RopeKind::Yarn(y) => RopeScaling::Yarn {
                factor: y.factor,
                original: y.original_max as f64,
                beta_fast: y.beta_fast,
                beta_slow: y.beta_slow,
                mscale: y.mscale,
                mscale_all_dim: y.mscale_all_dim,
            },
            RopeKind::LongRope { long, original_max, long_mscale, .. } => {
                let ratio = max as f64 / *original_max as f64;
                let computed = if ratio <= 1.0 { 1.0 } else { (1.0 + ratio.ln() / (*original_max as f64).ln()).sqrt() };
                RopeScaling::Long { factors: long.clone(), scale: long_mscale.unwrap_or(computed) }
            }
            RopeKind::Proportional { factor } => RopeScaling::Proportional {
                factor: *factor,
                rotated: (dims as f64 * c.partial_rotary_factor.unwrap_or(1.0)) as i32,
            },
            _ => RopeScaling::None,
        };
        let base = match &c.kind {
            RopeKind::NtkAlpha { alpha } => base * alpha.powf(dims as f64 / (dims as f64 - 2.0)),
            _ => base,
        };
        Rope { dims, base, traditional: false, scaling }
    }
}
