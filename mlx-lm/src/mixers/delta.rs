//! What the gated delta rules share: queries, keys and values through short convolutions, the rule, low-rank projections.

use super::conv::CausalConv;
use crate::Result;
use crate::blueprint::{DeltaHeads, Projection, QkvNames};
use crate::cache::Slots;
use crate::weights::Leaves;
use mlx::fast::{self, Columns, DeltaLayer, Fused, HeadGate, LinearScan, LogDecay, Matrix, Rule, ShortConv};
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{Array, nn};

/// Tokens up to which one kernel does all of a layer between its projections and its output; more of them are better
/// prepared all at once.
pub const FEW_TOKENS: i32 = 64;

/// What a layer's projections give, for [`DeltaRule::fused`].
pub struct Projected<'a> {
    pub qkv: [Columns<'a>; 3],
    pub beta: Columns<'a>,
    pub a: Columns<'a>,
    /// `a` has a number per channel of the keys.
    pub channels: bool,
    pub decay: LogDecay,
    pub a_log: &'a Array,
    pub dt_bias: &'a Array,
    /// Of the norm over each head.
    pub norm: &'a Array,
    pub gate: HeadGate<'a>,
}

/// The convolutions and the rule behind them; slots hold one tail per convolution, then the state.
#[derive(Module)]
pub struct DeltaRule {
    convs: Leaf<Vec<Leaf<CausalConv>>>,
    #[module(skip)]
    heads: DeltaHeads,
}

impl DeltaRule {
    /// Convolutions under these names: one of q, k and v each, or one of all.
    pub fn load(s: &DeltaHeads, names: &[&str], leaves: &Leaves) -> Result<Leaf<DeltaRule>> {
        let (keys, values) = s.widths();
        let convs = match s.conv {
            None => Vec::new(),
            Some(taps) => {
                let widths = if names.len() == 1 { vec![2 * keys + values] } else { vec![keys, keys, values] };
                let load = |(name, width): (&&str, i32)| CausalConv::load(leaves, name, width, taps, s.conv_bias);
                names.iter().zip(widths).map(load).collect::<Result<_>>()?
            }
        };
        Ok(Leaf::new("", DeltaRule { convs: Leaf::new("", convs), heads: s.clone() }))
    }

    /// q, k, v as projected, one by one or side by side [B, L, ..]; log-decays g [B, L, Hv, 1 or K] and the logits of beta
    /// [B, L, Hv], to [B, L, Hv, V] in the type of q.
    pub fn forward(&self, mut qkv: Vec<Array>, g: &Array, beta: &Array, slots: &mut Slots) -> Array {
        let s = &self.heads;
        for (i, part) in qkv.iter_mut().enumerate() {
            *part = self.convs.get(i).map_or_else(|| nn::silu(&*part), |conv| conv.forward_silu(part, slots, i));
        }
        let (keys, _) = s.widths();
        if let [joined] = &qkv[..] {
            qkv = joined.split_at(&[keys, 2 * keys], -1);
        }
        let [q, k, v] = &qkv[..] else { unreachable!("one array of all or one of each") };
        let heads = |a: &Array, n: i32| a.unflatten(-1, [n, -1]);
        // unit length, with the readout scale in q: rms norms times powers of d^-1/2
        let inv = (s.key_dim as f32).powf(-0.5);
        let unit = |a: &Array| fast::rms_norm(&heads(a, s.key_heads), None, 1e-6 * inv * inv);
        let (q, k) = (unit(q) * (inv * inv), unit(k) * inv);
        let reach = if s.negative_eigenvalues { 2.0 } else { 1.0 };
        let beta = (beta.sigmoid() * reach).expand_dims(-1);
        // heads before tokens
        let [q, k, v, g, beta] = [&q, &k, &heads(v, s.value_heads), g, &beta].map(|a| a.swapaxes(1, 2));
        let state = self.convs.len();
        let rule = Rule::Delta { beta: &beta };
        let (o, last) = fast::linear_scan(&LinearScan { q: &q, k: &k, v: &v, g: &g, rule }, slots.take(state));
        slots.set(state, last);
        slots.advance(q.dim(2));
        o.swapaxes(1, 2).astype(q.dtype())
    }

    /// All between projections and output, the norm and the gate of each head included, in one kernel: [B, L, Hv V];
    /// `None` where there is none. Slots are then untouched.
    pub fn fused(&self, i: &Projected<'_>, slots: &mut Slots) -> Option<Array> {
        let s = &self.heads;
        let [q, k, v] = i.qkv;
        if !fast::has_layer_kernels() || q.x.dim(1) > FEW_TOKENS {
            return None;
        }
        let convs: Vec<ShortConv> = self.convs.iter().enumerate().map(|(n, c)| c.short(slots.get(n))).collect();
        let layer = DeltaLayer {
            key_heads: s.key_heads,
            value_heads: s.value_heads,
            key_dim: s.key_dim,
            value_dim: s.value_dim,
            q,
            k,
            v,
            convs: &convs,
            beta: i.beta,
            reach: if s.negative_eigenvalues { 2.0 } else { 1.0 },
            a: i.a,
            channels: i.channels,
            decay: i.decay,
            a_log: i.a_log,
            dt_bias: i.dt_bias,
            norm: (i.norm, s.eps),
            gate: i.gate,
        };
        let done = fast::delta_fused(&layer, slots.get(convs.len()))?;
        let tokens = q.x.dim(1);
        done.tails.into_iter().chain([done.state]).enumerate().for_each(|(n, a)| slots.set(n, a));
        slots.advance(tokens);
        Some(done.out)
    }
}

/// A parameter of `count` numbers in whatever shape it is stored (`A_log` is [1, 1, H, 1] in kimi_linear).
pub fn numbers(leaves: &Leaves, name: &str, count: i32) -> Result<Leaf<Param>> {
    let stored = leaves.shape(name).filter(|s| s.iter().product::<i32>() == count);
    leaves.param(name, stored.as_deref().unwrap_or(&[count]))
}

/// Linear layers whose leaves lie in the mixer itself.
pub type Matrices = Leaf<Vec<Leaf<Linear>>>;

/// Takes linear layers (name, outputs) of the same input, without biases.
pub fn matrices(leaves: &Leaves, input: i32, wanted: &[(&str, i32)]) -> Result<Matrices> {
    let all = wanted.iter().map(|(name, output)| leaves.linear(name, input, *output, false)).collect::<Result<_>>()?;
    Ok(Leaf::new("", all))
}

/// The projections to q, k and v.
pub fn qkv_matrices(s: &DeltaHeads, names: &QkvNames, leaves: &Leaves) -> Result<Matrices> {
    let (keys, values) = s.widths();
    match names {
        QkvNames::Separate(_) => matrices(leaves, s.hidden, &[("q_proj", keys), ("k_proj", keys), ("v_proj", values)]),
        QkvNames::Joined { projection, .. } => matrices(leaves, s.hidden, &[(projection, 2 * keys + values)]),
    }
}

/// A [`Projection`]: one matrix, or two in a row.
pub fn projection(leaves: &Leaves, p: &Projection, input: i32, output: i32) -> Result<Matrices> {
    let all = match p {
        Projection::Full(name) => vec![leaves.linear(name, input, output, false)?],
        Projection::LowRank { first, second, rank, bias } => {
            vec![leaves.linear(first, input, *rank, false)?, leaves.linear(second, *rank, output, *bias)?]
        }
    };
    Ok(Leaf::new("", all))
}

/// What matrices in a row make of x.
pub fn through(matrices: &Matrices, x: &Array) -> Array {
    matrices.iter().fold(x.clone(), |y, m| m.forward(&y))
}

/// The matrices as stored, if no adapter changes them.
pub fn stored(matrices: &Matrices) -> Option<Vec<Matrix<'_>>> {
    matrices.iter().map(|m| m.matrix()).collect()
}

/// The products of a normed x [B, L, D] with all matrices side by side, up to three in a kernel: which array has them,
/// and from which column on.
pub fn normed_rows<'a>(matrices: &[Matrix<'a>], x: &Array, norm: (&'a Array, f32)) -> (Vec<Array>, Vec<(usize, i32)>) {
    let mut places = Vec::new();
    let product = |(i, parts): (usize, &[Matrix<'a>])| {
        let mut at = 0;
        for p in parts {
            places.push((i, at));
            at += p.outputs();
        }
        fast::linear(x, parts, Fused { norm: Some(norm), ..Default::default() })
    };
    let arrays = matrices.chunks(3).enumerate().map(product).collect();
    (arrays, places)
}

/// What each matrix makes of x.
pub fn each(matrices: &Matrices, x: &Array) -> Vec<Array> {
    matrices.iter().map(|m| m.forward(x)).collect()
}
