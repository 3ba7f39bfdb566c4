//! Gated DeltaNet layers (qwen3_next, qwen3_5).

use super::Mixer;
use super::conv::causal_conv;
use super::linear::{self, delta};
use crate::Result;
use crate::blueprint::{self, GatedDeltaLayout};
use crate::cache::Cache;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array, Dtype, fast, nn};

/// Gated DeltaNet over [`blueprint::GatedDelta`].
#[derive(Module)]
pub struct GatedDelta {
    in_proj_qkv: Option<Leaf<Linear>>,
    in_proj_z: Option<Leaf<Linear>>,
    in_proj_b: Option<Leaf<Linear>>,
    in_proj_a: Option<Leaf<Linear>>,
    in_proj_qkvz: Option<Leaf<Linear>>,
    in_proj_ba: Option<Leaf<Linear>>,
    conv1d: Leaf<Param>,
    dt_bias: Leaf<Param>,
    a_log: Leaf<Param>,
    norm: Leaf<Param>,
    out_proj: Leaf<Linear>,
    #[module(skip)]
    spec: blueprint::GatedDelta,
}

pub(super) fn build(s: &blueprint::GatedDelta, leaves: &Leaves) -> Result<GatedDelta> {
    let (keys, values) = (s.key_heads * s.key_dim, s.value_heads * s.value_dim);
    let linear = |name: &str, out: i32| leaves.linear(name, s.hidden, out, false).map(Some);
    let separate = s.layout == GatedDeltaLayout::Separate;
    let only = |on: bool, name: &str, out: i32| if on { linear(name, out) } else { Ok(None) };
    Ok(GatedDelta {
        in_proj_qkv: only(separate, "in_proj_qkv", 2 * keys + values)?,
        in_proj_z: only(separate, "in_proj_z", values)?,
        in_proj_b: only(separate, "in_proj_b", s.value_heads)?,
        in_proj_a: only(separate, "in_proj_a", s.value_heads)?,
        in_proj_qkvz: only(!separate, "in_proj_qkvz", 2 * keys + 2 * values)?,
        in_proj_ba: only(!separate, "in_proj_ba", 2 * s.value_heads)?,
        conv1d: leaves.param("conv1d.weight", &[2 * keys + values, s.conv, 1])?,
        dt_bias: leaves.param("dt_bias", &[s.value_heads])?,
        a_log: leaves.param("A_log", &[s.value_heads])?,
        norm: leaves.param("norm.weight", &[s.value_dim])?,
        out_proj: leaves.linear("out_proj", values, s.hidden, false)?,
        spec: s.clone(),
    })
}

/// What the input projections give.
struct Inputs {
    /// q, k, v side by side [B, L, 2 keys + values].
    qkv: Array,
    /// [B, L, Hv, V]
    z: Array,
    /// [B, L, Hv]
    b: Array,
    a: Array,
}

impl GatedDelta {
    fn project(&self, x: &Array) -> Inputs {
        let s = &self.spec;
        let [b, l, _] = x.dims();
        if let (Some(qkv), Some(z), Some(pb), Some(pa)) =
            (&self.in_proj_qkv, &self.in_proj_z, &self.in_proj_b, &self.in_proj_a)
        {
            let z = z.forward(x).reshape([b, l, s.value_heads, s.value_dim]);
            return Inputs { qkv: qkv.forward(x), z, b: pb.forward(x), a: pa.forward(x) };
        }
        let (Some(qkvz), Some(ba)) = (&self.in_proj_qkvz, &self.in_proj_ba) else {
            unreachable!("built with separate or packed projections")
        };
        let (per_key, dk) = (s.value_heads / s.key_heads, s.key_dim);
        let width = per_key * s.value_dim;
        let grouped = qkvz.forward(x).reshape([b, l, s.key_heads, -1]);
        let part = |from: i32, to: i32| grouped.slice_axis(-1, from..to);
        let flat = |a: Array| a.reshape([b, l, -1]);
        let qkv = [part(0, dk), part(dk, 2 * dk), part(2 * dk, 2 * dk + width)].map(flat);
        let z = part(2 * dk + width, 2 * dk + 2 * width).reshape([b, l, s.value_heads, s.value_dim]);
        let ba = ba.forward(x).reshape([b, l, s.key_heads, -1]);
        let gate = |from: i32| ba.slice_axis(-1, from..from + per_key).reshape([b, l, s.value_heads]);
        Inputs { qkv: mx::concatenate(&qkv, -1), z, b: gate(0), a: gate(per_key) }
    }
}

impl Mixer for GatedDelta {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let [b, l, _] = x.dims();
        let i = self.project(x);
        let slots = cache.slots();
        let (mixed, tail) = causal_conv(&i.qkv, &self.conv1d, slots.take(0));
        slots.set(0, tail);
        let mixed = nn::silu(&mixed);
        let keys = s.key_heads * s.key_dim;
        let heads = |from: i32, to: i32, h: i32| mixed.slice_axis(-1, from..to).reshape([b, l, h, -1]);
        // unit length, with the readout scale in q: rms norms times powers of d^-1/2
        let inv = (s.key_dim as f32).powf(-0.5);
        let unit = |a: &Array| fast::rms_norm(a, None, 1e-6 * inv * inv);
        let spread = |a: Array| mx::repeat(&a, s.value_heads / s.key_heads, 2);
        let q = spread(unit(&heads(0, keys, s.key_heads)) * (inv * inv));
        let k = spread(unit(&heads(keys, 2 * keys, s.key_heads)) * inv);
        let v = heads(2 * keys, 2 * keys + s.value_heads * s.value_dim, s.value_heads);
        let log_decay = -self.a_log.astype(Dtype::Float32).exp() * nn::softplus(&(&i.a + self.dt_bias.value()));
        // heads before tokens
        let [q, k, v] = [q, k, v].map(|a| a.transpose([0, 2, 1, 3]));
        let [g, beta] = [log_decay, i.b.sigmoid()].map(|a| a.swapaxes(1, 2).expand_dims(-1));
        let inputs = linear::Inputs { q: &q, k: &k, v: &v, g: &g, read: None };
        let (o, state) = delta(inputs, &beta, slots.take(1));
        let o = o.transpose([0, 2, 1, 3]);
        slots.set(1, state);
        slots.advance(l);
        let normed = fast::rms_norm(&o.astype(x.dtype()), Some(self.norm.value()), s.eps);
        // the gate in float32, as published
        let z = i.z.astype(Dtype::Float32);
        let gated = nn::swiglu(&z, &normed.astype(Dtype::Float32)).astype(x.dtype());
        self.out_proj.forward(&gated.reshape([b, l, -1]))
    }
}
