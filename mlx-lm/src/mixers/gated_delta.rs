//! Gated DeltaNet layers (qwen3_next, qwen3_5, olmo_hybrid, gated_deltanet).

use super::Mixer;
use super::delta::{DeltaRule, Matrices, each, matrices};
use crate::Result;
use crate::blueprint::{self, GatedDeltaLayout as Layout};
use crate::cache::Cache;
use crate::parts::Step;
use crate::weights::Leaves;
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
    fn project(&self, x: &Array) -> Inputs {
        let mut y = each(&self.inward, x);
        if self.spec.layout == Layout::Packed {
            return self.unpack(&y[0], &y[1]);
        }
        let z = if self.spec.gate { y.pop() } else { None };
        let (Some(a), Some(b)) = (y.pop(), y.pop()) else { unreachable!("built with projections for both") };
        Inputs { qkv: y, b, a, z }
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
        let i = self.project(x);
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
}
