//! Attention of layers that run twice (iquestloopcoder).

use super::{Mixer, attention, rope::Rope};
use crate::Result;
use crate::blueprint::Looped as Spec;
use crate::cache::{Attend, Cache, sdpa};
use crate::parts::{SharedKv, Step};
use crate::weights::Leaves;
use mlx::Array;
use mlx::fast::Mask;
use mlx::nn::{Leaf, Linear, Module, Param};

/// First pass: plain attention. Second: g * attention over the first pass + (1 - g) * attention over its own window.
#[derive(Module)]
pub struct Looped {
    q_proj: Leaf<Linear>,
    k_proj: Leaf<Linear>,
    v_proj: Leaf<Linear>,
    o_proj: Leaf<Linear>,
    gate_weight: Leaf<Param>,
    gate_bias: Leaf<Param>,
    #[module(skip)]
    rope: Option<Rope>,
    #[module(skip)]
    name: String,
    #[module(skip)]
    spec: Spec,
}

pub(super) fn build(s: &Spec, leaves: &Leaves) -> Result<Looped> {
    let a = &s.attention;
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    Ok(Looped {
        q_proj: leaves.linear("q_proj", a.hidden, q, a.qkv_bias)?,
        k_proj: leaves.linear("k_proj", a.hidden, kv, a.qkv_bias)?,
        v_proj: leaves.linear("v_proj", a.hidden, kv, a.qkv_bias)?,
        o_proj: leaves.linear(&a.o, q, a.hidden, a.o_bias)?,
        gate_weight: leaves.param(&format!("{}.weight", s.gate), &[a.heads, a.head_dim])?,
        gate_bias: leaves.param(&format!("{}.bias", s.gate), &[a.heads])?,
        rope: a.rope.as_ref().map(Rope::new),
        name: format!("loop.{}", s.layer),
        spec: s.clone(),
    })
}

impl Looped {
    /// One gate per query: [B, H, L, 1].
    fn gate(&self, q: &Array) -> Array {
        let dots = q.matmul(&self.gate_weight.value().expand_dims(-1));
        (dots + self.gate_bias.value().reshape([-1, 1, 1])).sigmoid()
    }
}

impl Mixer for Looped {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let a = &self.spec.attention;
        let mut q = attention::split_heads(&self.q_proj.forward(x), a.heads);
        let mut k = attention::split_heads(&self.k_proj.forward(x), a.kv_heads);
        let v = attention::split_heads(&self.v_proj.forward(x), a.kv_heads);
        let kv = cache.kv();
        let position = kv.position();
        if let Some(rope) = &self.rope {
            (q, k) = (rope.forward(&q, &position), rope.forward(&k, &position));
        }
        let over = |k: &Array, v: &Array, mask: &Mask| {
            sdpa(&q, k, v, Attend { scale: a.scale, mask, sinks: None, softcap: None })
        };
        let first = step.get_kv(&self.name);
        let mask = step.mask(kv, x.dim(1), first.as_ref().map(|_| self.spec.window));
        let (keys, values) = kv.update(k, v);
        let own = over(&keys, &values, &mask);
        let o = match first {
            None => {
                step.put_kv(&self.name, SharedKv { keys, values, mask, position });
                own
            }
            Some(f) => {
                let g = self.gate(&q);
                &g * over(&f.keys, &f.values, &f.mask) + (1.0 - &g) * own
            }
        };
        self.o_proj.forward(&o.transpose([0, 2, 1, 3]).flatten(2, 3))
    }
}
