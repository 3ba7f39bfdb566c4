//! Recurrent mixers as data.

use super::{CacheKind, Part};

/// A gated short convolution (lfm2).
#[derive(Debug, Clone)]
pub struct ShortConv {
    pub hidden: i32,
    pub kernel: i32,
    pub bias: bool,
}

crate::spec!(ShortConv, "conv", |_| CacheKind::Slots(1));

/// Mamba-2: state space duality.
#[derive(Debug, Clone)]
pub struct Mamba2 {
    pub hidden: i32,
    pub heads: i32,
    pub head_dim: i32,
    pub state: i32,
    /// Heads of a group share B and C: head h uses group h / (heads / groups).
    pub groups: i32,
    pub kernel: i32,
    /// Of the input and of the output projection.
    pub bias: [bool; 2],
    pub conv_bias: bool,
    /// Bounds of the time steps.
    pub dt_limit: (f32, f32),
    pub eps: f32,
    pub norm: GatedNorm,
    /// RMSNorm(y silu(z)) (published) instead of RMSNorm(y) silu(z).
    pub gate_first: bool,
    pub skip: Skip,
    pub dt_bias: bool,
}

impl Mamba2 {
    /// As published: heads, their width and state, groups, taps; a norm over all channels of what the gate let through.
    pub fn new(hidden: i32, [heads, head_dim, state, groups, kernel]: [i32; 5], eps: f32) -> Self {
        Mamba2 {
            hidden,
            heads,
            head_dim,
            state,
            groups,
            kernel,
            bias: [false; 2],
            conv_bias: true,
            dt_limit: (0.0, f32::INFINITY),
            eps,
            norm: GatedNorm::Whole,
            gate_first: true,
            skip: Skip::PerHead,
            dt_bias: true,
        }
    }
}

/// `D`, a factor on what goes straight from input to output in [`Mamba2`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    None,
    PerHead,
    PerChannel,
}

/// The norm beside the gate of [`Mamba2`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatedNorm {
    /// The gate alone.
    None,
    /// Over all channels.
    Whole,
    /// Over each group (nemotron_h).
    PerGroup,
}

crate::spec!(Mamba2, "mamba2", |_| CacheKind::Slots(2));

/// Mamba: selective state spaces, one state `[N]` per channel (Gu and Dao 2023).
#[derive(Debug, Clone)]
pub struct Mamba {
    pub hidden: i32,
    pub inner: i32,
    pub state: i32,
    pub kernel: i32,
    /// Width of the bottleneck of the time steps.
    pub dt_rank: i32,
    pub bias: bool,
    pub conv_bias: bool,
    pub norms: MambaNorms,
}

/// RMS norms on time steps, B and C of [`Mamba`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MambaNorms {
    None,
    /// Without weights (falcon_mamba).
    Plain {
        eps: f32,
    },
    /// `dt_layernorm`, `b_layernorm`, `c_layernorm` (jamba).
    Learned {
        eps: f32,
    },
}

crate::spec!(Mamba, "mamba", |_| CacheKind::Slots(2));

/// The sum of two mixers of the same input (falcon_h1): their names and parts.
#[derive(Debug, Clone)]
pub struct Beside(pub [(String, Part); 2]);

crate::spec!(Beside, "beside", |s: &Beside| CacheKind::List(s.0.iter().map(|(_, p)| p.cache()).collect()));

/// Griffin's recurrent block: a gated linear recurrence per channel (recurrent_gemma).
#[derive(Debug, Clone)]
pub struct RgLru {
    pub hidden: i32,
    pub inner: i32,
    /// Blocks of the gates' matrices.
    pub heads: i32,
    pub kernel: i32,
}

crate::spec!(RgLru, "rg_lru", |_| CacheKind::Slots(2));

/// Mamba-2's state space between mamba's projections, with RMS norms on time steps, B and C (plamo2).
#[derive(Debug, Clone)]
pub struct PlamoMamba {
    pub hidden: i32,
    pub heads: i32,
    pub head_dim: i32,
    pub state: i32,
    /// Width of the bottleneck of the time steps.
    pub dt_rank: i32,
    /// Bounds of the time steps.
    pub dt_limit: (f32, f32),
    pub kernel: i32,
    pub eps: f32,
}

crate::spec!(PlamoMamba, "plamo_mamba", |_| CacheKind::Slots(2));
