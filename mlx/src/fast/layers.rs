//! Recurrent layers of language models between their input projections and their output projection, for few tokens: the
//! short convolutions, unit lengths, decays and gates around the recurrence, and its state. Each is one kernel on CUDA
//! (`cuda/layers.cuh`); `None` elsewhere, where models compose the same from plain ops and
//! [`linear_scan`](super::linear_scan).

use super::cuda::{self, layers};
use crate::{Array, Dtype};

/// Numbers of a layer's heads in rows of a projection x `[B, L, W]`: those of head h start at `at + h * stride`.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    pub x: &'a Array,
    pub at: i32,
    pub stride: i32,
}

impl<'a> Columns<'a> {
    /// Heads of `width` numbers one after the other, from `at` on.
    pub fn new(x: &'a Array, at: i32, width: i32) -> Self {
        Columns { x, at, stride: width }
    }
    pub(super) fn fits(&self, like: &Array, heads: i32, width: i32) -> bool {
        self.x.ndim() == 3
            && self.x.shape()[..2] == like.shape()[..2]
            && self.x.dtype() == like.dtype()
            && self.at >= 0
            && self.stride >= 0
            && i64::from(self.at) + i64::from(heads - 1) * i64::from(self.stride) + i64::from(width)
                <= i64::from(self.x.dim(2))
    }
}

/// A causal convolution of each channel.
#[derive(Debug, Clone, Copy)]
pub struct ShortConv<'a> {
    /// `[C, taps, 1]`
    pub weight: &'a Array,
    /// `[C]`
    pub bias: Option<&'a Array>,
    /// The last inputs `[B, taps - 1, C]`; zeros if `None`.
    pub tail: Option<&'a Array>,
}

impl ShortConv<'_> {
    fn fits(&self, like: &Array, channels: i32, taps: i32) -> bool {
        let same = |a: &Array| a.dtype() == like.dtype();
        self.weight.shape() == [channels, taps, 1]
            && same(self.weight)
            && self.bias.is_none_or(|b| b.shape() == [channels] && same(b))
            && self.tail.is_none_or(|t| t.shape() == [like.dim(0), taps - 1, channels] && same(t))
    }
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [Some(self.weight), self.bias, self.tail].into_iter().flatten()
    }
}

/// What a layer gives: its output, the next tails of its convolutions in their order, the next state (float32).
#[derive(Debug)]
pub struct Stepped {
    pub out: Array,
    pub tails: Vec<Array>,
    pub state: Array,
}

/// How the normed output of each head is gated.
#[derive(Debug, Clone, Copy)]
pub enum HeadGate<'a> {
    None,
    Silu(Columns<'a>),
    Sigmoid(Columns<'a>),
}

/// Log-decays of the gated delta rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LogDecay {
    /// `-e^a_log softplus(a + dt_bias)`
    Softplus,
    /// `bound * sigmoid(e^a_log (a + dt_bias))`
    Bounded(f32),
}

/// The gated delta rule with a decay per value head or per channel of its key, a norm over each head and a gate.
#[derive(Debug, Clone, Copy)]
pub struct DeltaLayer<'a> {
    pub key_heads: i32,
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// By key head; a key head's values are those of all its value heads. The same holds for `beta`, a gate and `a`.
    pub q: Columns<'a>,
    pub k: Columns<'a>,
    pub v: Columns<'a>,
    /// One for q, k and v side by side, or three.
    pub convs: &'a [ShortConv<'a>],
    /// Logits of how much is written, one per value head.
    pub beta: Columns<'a>,
    /// How much is written at most.
    pub reach: f32,
    /// One number per value head, or (`channels`) `key_dim` of them and then by value head.
    pub a: Columns<'a>,
    pub channels: bool,
    pub decay: LogDecay,
    /// `[value_heads]`
    pub a_log: &'a Array,
    /// One number for each of `a`.
    pub dt_bias: &'a Array,
    /// `[value_dim]`, epsilon.
    pub norm: (&'a Array, f32),
    pub gate: HeadGate<'a>,
}

fn is_usable(like: &Array) -> bool {
    like.ndim() == 3 && like.size() > 0 && cuda::is_half(like.dtype())
}

/// A parameter of `count` numbers, of the model's type or float32.
fn is_parameter(a: &Array, like: &Array, count: i32) -> bool {
    a.size() as i64 == i64::from(count) && (a.dtype() == like.dtype() || a.dtype() == Dtype::Float32)
}

fn untraced<'a>(mut arrays: impl Iterator<Item = &'a Array>) -> bool {
    !arrays.any(super::backend::is_traced)
}

/// The layer's heads `[B, L, value_heads * value_dim]` behind a state `[B, value_heads, value_dim, key_dim]`.
pub fn delta_fused(i: &DeltaLayer<'_>, state: Option<&Array>) -> Option<Stepped> {
    let gpu = cuda::current_gpu()?;
    let (x, [hk, hv, k, v]) = (i.q.x, [i.key_heads, i.value_heads, i.key_dim, i.value_dim]);
    if !is_usable(x) || hk <= 0 || hv <= 0 || hv % hk != 0 || k <= 0 || k % 4 != 0 || v <= 0 {
        return None;
    }
    let (per, taps) = (hv / hk, i.convs.first().filter(|c| c.weight.ndim() == 3)?.weight.dim(1));
    let widths: &[i32] = match i.convs.len() {
        1 => &[2 * hk * k + hv * v],
        3 => &[hk * k, hk * k, hv * v],
        _ => return None,
    };
    let z = match i.gate {
        HeadGate::None => None,
        HeadGate::Silu(z) | HeadGate::Sigmoid(z) => Some(z),
    };
    let fits = i.q.fits(x, hk, k)
        && i.k.fits(x, hk, k)
        && i.v.fits(x, hk, per * v)
        && i.beta.fits(x, hk, per)
        && if i.channels { i.a.fits(x, hv, k) } else { i.a.fits(x, hk, per) }
        && z.is_none_or(|z| z.fits(x, hk, per * v))
        && taps >= 1
        && i.convs.iter().zip(widths).all(|(c, &w)| c.fits(x, w, taps))
        && i.convs.windows(2).all(|c| c[0].bias.is_some() == c[1].bias.is_some())
        && is_parameter(i.a_log, x, hv)
        && is_parameter(i.dt_bias, x, if i.channels { hv * k } else { hv })
        && i.norm.0.shape() == [v]
        && i.norm.0.dtype() == x.dtype()
        && state.is_none_or(|s| s.shape() == [x.dim(0), hv, v, k] && s.dtype() == Dtype::Float32);
    let columns = [Some(i.q), Some(i.k), Some(i.v), Some(i.beta), Some(i.a), z];
    let arrays = || {
        let parts = columns.iter().flatten().map(|c| c.x).chain(i.convs.iter().flat_map(ShortConv::arrays));
        parts.chain([i.a_log, i.dt_bias, i.norm.0]).chain(state)
    };
    (fits && untraced(arrays())).then(|| layers::delta(gpu, i, z, state))?
}

/// Mamba-2: `S = e^(dt A) S + (dt u) B'`, `y = S C + D u`, all of one projection x.
#[derive(Debug, Clone, Copy)]
pub struct SpaceLayer<'a> {
    pub heads: i32,
    pub head_dim: i32,
    /// Head h uses B and C of group `h / (heads / groups)`.
    pub groups: i32,
    pub state: i32,
    /// `[B, L, ..]` with u, B and C side by side from `at` on, as the convolution takes them, and the logits of dt from
    /// `dt_at` on.
    pub x: &'a Array,
    pub at: i32,
    pub dt_at: i32,
    pub conv: ShortConv<'a>,
    /// `[heads]`
    pub a_log: &'a Array,
    /// `[heads]`
    pub dt_bias: Option<&'a Array>,
    /// D: one number per head or one per channel.
    pub skip: Option<&'a Array>,
    /// Bounds of dt.
    pub dt_limit: (f32, f32),
}

/// The layer's heads `[B, L, heads * head_dim]` behind a state `[B, heads, head_dim, state]`.
pub fn space_fused(i: &SpaceLayer<'_>, state: Option<&Array>) -> Option<Stepped> {
    let gpu = cuda::current_gpu()?;
    let (x, [h, p, g, n]) = (i.x, [i.heads, i.head_dim, i.groups, i.state]);
    if !is_usable(x) || h <= 0 || g <= 0 || h % g != 0 || n <= 0 || n % 4 != 0 || p <= 0 || i.conv.weight.ndim() != 3 {
        return None;
    }
    let (taps, channels) = (i.conv.weight.dim(1), h * p + 2 * g * n);
    let fits = Columns::new(x, i.at, channels).fits(x, 1, channels)
        && Columns::new(x, i.dt_at, 1).fits(x, h, 1)
        && taps >= 1
        && i.conv.fits(x, channels, taps)
        && is_parameter(i.a_log, x, h)
        && i.dt_bias.is_none_or(|b| is_parameter(b, x, h))
        && i.skip.is_none_or(|d| is_parameter(d, x, h) || is_parameter(d, x, h * p))
        && state.is_none_or(|s| s.shape() == [x.dim(0), h, p, n] && s.dtype() == Dtype::Float32);
    let arrays = || [Some(x), Some(i.a_log), i.dt_bias, i.skip, state].into_iter().flatten().chain(i.conv.arrays());
    (fits && untraced(arrays())).then(|| layers::space(gpu, i, state))?
}

/// `rms_norm(y silu(z)) weight`, or with `gate_first` false `rms_norm(y) weight silu(z)`, over each of `groups` parts of
/// y `[B, L, C]`; z has C columns, weight is `[C]`.
pub fn gated_norm_fused(
    y: &Array,
    z: Columns<'_>,
    (weight, eps): (&Array, f32),
    groups: i32,
    gate_first: bool,
) -> Option<Array> {
    let gpu = cuda::current_gpu()?;
    let fits = is_usable(y)
        && groups > 0
        && y.dim(2) % groups == 0
        && Columns { stride: y.dim(2) / groups, ..z }.fits(y, groups, y.dim(2) / groups)
        && weight.shape() == [y.dim(2)]
        && weight.dtype() == y.dtype()
        && y.size() as i64 / i64::from(y.dim(2)) <= 65_535;
    (fits && untraced([y, z.x, weight].into_iter()))
        .then(|| layers::gated_norm(gpu, y, z, weight, eps, groups, gate_first))?
}

/// How [`WkvLayer`] brings removed keys to length 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UnitLength {
    /// x / max(|x|, eps)
    AtLeast(f32),
    /// x / sqrt(|x|^2 + eps)
    Root(f32),
}

/// RWKV-7's time mixing behind its projections: heads of r, k, `rate` (logits of a) and `decay` (logits) have `key_dim`
/// numbers, those of v and `gate` `value_dim`; `k_k`, `k_a`, `r_k` are `[H, K]`, the norm's weight and bias `[H, V]`.
#[derive(Debug, Clone, Copy)]
pub struct WkvLayer<'a> {
    pub heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    pub r: Columns<'a>,
    pub k: Columns<'a>,
    pub v: Columns<'a>,
    pub rate: Columns<'a>,
    pub decay: Columns<'a>,
    pub gate: Columns<'a>,
    /// The first layer's values, and the logits of how far v goes to them.
    pub first: Option<(Columns<'a>, Columns<'a>)>,
    pub k_k: &'a Array,
    pub k_a: &'a Array,
    pub r_k: &'a Array,
    pub norm: (&'a Array, &'a Array, f32),
    pub unit: UnitLength,
}

/// The layer's heads `[B, L, H V]` and the state `[B, H, V, K]` behind one like it.
pub fn wkv_fused(i: &WkvLayer<'_>, state: Option<&Array>) -> Option<(Array, Array)> {
    let gpu = cuda::current_gpu()?;
    let (x, [h, k, v]) = (i.r.x, [i.heads, i.key_dim, i.value_dim]);
    if !is_usable(x) || h <= 0 || k <= 0 || k % 4 != 0 || v <= 0 {
        return None;
    }
    let (by_key, by_value) = ([i.k_k, i.k_a, i.r_k], [i.norm.0, i.norm.1]);
    let (keys, values) = ([i.r, i.k, i.rate, i.decay], [i.v, i.gate]);
    let values = || values.into_iter().chain(i.first.into_iter().flat_map(|(first, share)| [first, share]));
    let parameter = |a: &Array, n: i32| a.shape() == [h, n] && a.dtype() == x.dtype();
    let fits = keys.iter().all(|c| c.fits(x, h, k))
        && values().all(|c| c.fits(x, h, v))
        && by_key.iter().all(|a| parameter(a, k))
        && by_value.iter().all(|a| parameter(a, v))
        && state.is_none_or(|s| s.shape() == [x.dim(0), h, v, k] && s.dtype() == Dtype::Float32);
    let arrays = || keys.into_iter().chain(values()).map(|c| c.x).chain(by_key).chain(by_value).chain(state);
    (fits && untraced(arrays())).then(|| layers::wkv(gpu, i, state))?
}

/// Tokens x `[B, L, D]` on their way to their predecessors: `x + (previous - x) by` for each of `by` (D numbers), and the
/// last token `[B, 1, D]`. `before` `[B, 1, D]` precedes the first.
pub fn token_mix_fused(x: &Array, before: Option<&Array>, by: &[&Array]) -> Option<(Vec<Array>, Array)> {
    let gpu = cuda::current_gpu()?;
    let fits = is_usable(x)
        && !by.is_empty()
        && by.iter().all(|a| a.size() as i64 == i64::from(x.dim(2)) && a.dtype() == x.dtype())
        && before.is_none_or(|a| a.shape() == [x.dim(0), 1, x.dim(2)] && a.dtype() == x.dtype())
        && x.dim(1) <= 65_535
        && x.dim(0) <= 65_535;
    (fits && untraced(by.iter().copied().chain([x]).chain(before))).then(|| layers::token_mix(gpu, x, before, by))?
}
