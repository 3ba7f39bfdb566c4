//! Norms as data.

/// A normalisation over the last axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    pub kind: NormKind,
    pub eps: f32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormKind {
    /// x / rms(x) * (weight + offset); offset 1 in gemma.
    Rms { offset: f32 },
    /// x / rms(x), without a weight.
    RmsPlain,
    /// x * weight / rms(x * weight) (muse_spark).
    RmsOfWeighted,
    /// (x - mean) / std * (weight + offset) (+ bias).
    Layer { bias: bool, offset: f32 },
    /// (x - mean) / std, without weight and bias.
    LayerPlain,
}

impl Norm {
    pub fn rms(eps: f32) -> Self {
        Norm { kind: NormKind::Rms { offset: 0.0 }, eps }
    }
    /// RMS norm whose stored weight is the factor minus 1.
    pub fn rms_offset(eps: f32, offset: f32) -> Self {
        Norm { kind: NormKind::Rms { offset }, eps }
    }
    pub fn rms_plain(eps: f32) -> Self {
        Norm { kind: NormKind::RmsPlain, eps }
    }
    pub fn layer(eps: f32, bias: bool) -> Self {
        Norm { kind: NormKind::Layer { bias, offset: 0.0 }, eps }
    }
    pub fn layer_plain(eps: f32) -> Self {
        Norm { kind: NormKind::LayerPlain, eps }
    }
}
