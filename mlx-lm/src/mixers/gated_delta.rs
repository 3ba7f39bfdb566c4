//! Gated DeltaNet layers (qwen3_next, qwen3_5, olmo_hybrid, gated_deltanet).

use super::Mixer;
use super::delta::{DeltaRule, Matrices, Projected, each, matrices, normed_rows, stored};
use crate::Result;
use crate::blueprint::{self, GatedDeltaLayout as Layout};
use crate::cache::{Cache, Slots};
use crate::parts::{Around, Step};
use crate::weights::Leaves;
use mlx::fast::{Columns, HeadGate, LogDecay};
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array, Dtype, fast, nn};

/// Gated DeltaNet over [`blueprint::GatedDelta`].
#[derive(Module)]
pub struct GatedDelta {
    /// In the order of the layout's leaves.
    inward: Matrices,
    rule: Leaf<DeltaRule>,
    dt_bias: Leaf<Param>,
    a_log: Leaf<Param>,
    norm: Leaf<Param>,
    out_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::GatedDelta,
}

pub(super) fn build(s: &blueprint::GatedDelta, leaves: &Leaves) -> Result<GatedDelta> {
    let h = &s.heads;
    let ((keys, values), count) = (h.widths(), h.value_heads);
    let mut inward = match s.layout {
        Layout::Separate => {
            vec![("q_proj", keys), ("k_proj", keys), ("v_proj", values), ("b_proj", count), ("a_proj", count)]
        }
        Layout::Joined => vec![("in_proj_qkv", 2 * keys + values), ("in_proj_b", count), ("in_proj_a", count)],
        Layout::Packed => vec![("in_proj_qkvz", 2 * (keys + values)), ("in_proj_ba", 2 * count)],
    };
    match s.layout {
        Layout::Separate if s.gate => inward.push(("g_proj", values)),
        Layout::Joined if s.gate => inward.push(("in_proj_z", values)),
        _ => {}
    }
    let (convs, norm, outward): (&[&str], _, _) = match s.layout {
        Layout::Separate => (&["q_conv1d", "k_conv1d", "v_conv1d"], "o_norm.weight", "o_proj"),
        _ => (&["conv1d"], "norm.weight", "out_proj"),
    };
    Ok(GatedDelta {
        inward: matrices(leaves, h.hidden, &inward)?,
        rule: DeltaRule::load(h, convs, leaves)?,
        dt_bias: leaves.param("dt_bias", &[count])?,
        a_log: leaves.param("A_log", &[count])?,
        norm: leaves.param(norm, &[h.value_dim])?,
        out_proj: leaves.linear(outward, values, h.hidden, false)?,
        spec: s.clone(),
    })
}

/// What the input projections give.
struct Inputs {
    /// q, k, v, one by one or side by side.
    qkv: Vec<Array>,
    /// Logits of beta and of the decays [B, L, Hv].
    b: Array,
    a: Array,
    /// Of the gate [B, L, Hv V].
    z: Option<Array>,
}

impl GatedDelta {
    fn inputs(&self, mut y: Vec<Array>) -> Inputs {
        if self.spec.layout == Layout::Packed {
            return self.unpack(&y[0], &y[1]);
        }
        let z = if self.spec.gate { y.pop() } else { None };
        let (Some(a), Some(b)) = (y.pop(), y.pop()) else { unreachable!("built with projections for both") };
        Inputs { qkv: y, b, a, z }
    }

    /// All between projections and output in one kernel, if there is one. Matrix i of the layout has its rows in
    /// `arrays[places[i].0]` from column `places[i].1` on.
    fn fused_rule(&self, arrays: &[Array], places: &[(usize, i32)], slots: &mut Slots) -> Option<Array> {
        let h = &self.spec.heads;
        let (keys, per) = (h.widths().0, h.value_heads / h.key_heads);
        let (k, v) = (h.key_dim, per * h.value_dim);
        let part = |i: usize, at: i32, stride: i32| {
            let (array, first) = places[i];
            Columns { x: &arrays[array], at: first + at, stride }
        };
        let (qkv, beta, a, z) = match self.spec.layout {
            Layout::Packed => {
                let (all, two) = (2 * (k + v), 2 * per);
                let qkv = [part(0, 0, all), part(0, k, all), part(0, 2 * k, all)];
                (qkv, part(1, 0, two), part(1, per, two), Some(part(0, 2 * k + v, all)))
            }
            Layout::Joined => {
                let qkv = [part(0, 0, k), part(0, keys, k), part(0, 2 * keys, v)];
                (qkv, part(1, 0, per), part(2, 0, per), places.get(3).map(|_| part(3, 0, v)))
            }
            Layout::Separate => {
                let qkv = [part(0, 0, k), part(1, 0, k), part(2, 0, v)];
                (qkv, part(3, 0, per), part(4, 0, per), places.get(5).map(|_| part(5, 0, v)))
            }
        };
        let projected = Projected {
            qkv,
            beta,
            a,
            channels: false,
            decay: LogDecay::Softplus,
            a_log: self.a_log.value(),
            dt_bias: self.dt_bias.value(),
            norm: self.norm.value(),
            gate: z.map_or(HeadGate::None, HeadGate::Silu),
        };
        self.rule.fused(&projected, slots)
    }

    /// Rows of each key head: its q and k, v and z of its value heads; and b and a of these.
    fn unpack(&self, qkvz: &Array, ba: &Array) -> Inputs {
        let h = &self.spec.heads;
        let per_key = h.value_heads / h.key_heads;
        let (dk, dv) = (h.key_dim, per_key * h.value_dim);
        let parts = |y: &Array, at: &[i32]| -> Vec<Array> {
            y.unflatten(-1, [h.key_heads, -1]).split_at(at, -1).iter().map(|p| p.flatten(-2, -1)).collect()
        };
        let mut y = parts(qkvz, &[dk, 2 * dk, 2 * dk + dv]);
        let z = y.pop();
        let mut ba = parts(ba, &[per_key]);
        let (Some(a), Some(b)) = (ba.pop(), ba.pop()) else { unreachable!("split at one place") };
        Inputs { qkv: vec![mx::concatenate(&y, -1)], b, a, z }
    }
}

impl Mixer for GatedDelta {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let h = &self.spec.heads;
        let y = each(&self.inward, x);
        let places: Vec<(usize, i32)> = (0..y.len()).map(|i| (i, 0)).collect();
        if let Some(o) = self.fused_rule(&y, &places, cache.slots()) {
            return self.out_proj.forward(&o);
        }
        let i = self.inputs(y);
        let dt = nn::softplus(&(i.a.astype(Dtype::Float32) + self.dt_bias.value()));
        let g = -(self.a_log.astype(Dtype::Float32).exp() * dt).expand_dims(-1);
        let o = self.rule.forward(i.qkv, &g, &i.b, cache.slots());
        let mut o = fast::rms_norm(&o, Some(self.norm.value()), h.eps);
        if let Some(z) = i.z {
            // the gate in float32, as published
            let z = z.unflatten(-1, [h.value_heads, -1]).astype(Dtype::Float32);
            o = nn::swiglu(&z, &o.astype(Dtype::Float32)).astype(x.dtype());
        }
        self.out_proj.forward(&o.flatten(-2, -1))
    }

    fn fused(&self, x: &Array, around: &Around<'_>, cache: &mut dyn Cache) -> Option<Array> {
        let out_proj = self.out_proj.matrix()?;
        let inward = stored(&self.inward)?;
        let (arrays, places) = normed_rows(&inward, x, around.norm);
        let o = self.fused_rule(&arrays, &places, cache.slots())?;
        Some(fast::linear(&o, &[out_proj], around.after(x)))
    }

    fn first_weights(&self) -> [Option<&Array>; 2] {
        [self.inward.first().map(|m| m.weight()), None]
    }
}
