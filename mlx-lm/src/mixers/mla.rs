//! Multi-head latent attention: one latent row and one rotated key row per token are cached (DeepSeek-V2).

use super::{Mixer, rope::Rope};
use crate::Result;
use crate::blueprint;
use crate::cache::{Attend, Cache, lowest, sdpa};
use crate::parts::{Norm, Step};
use crate::weights::Leaves;
use mlx::fast::Mask;
use mlx::nn::{Leaf, Linear, Module, SwitchLinear};
use mlx::{self as mx, Array};

/// Latent attention over [`blueprint::Mla`].
#[derive(Module)]
pub struct Mla {
    q_proj: Option<Leaf<Linear>>,
    q_a_proj: Option<Leaf<Linear>>,
    q_a_layernorm: Option<Leaf<Norm>>,
    q_b_proj: Option<Leaf<Linear>>,
    kv_a_proj_with_mqa: Leaf<Linear>,
    kv_a_layernorm: Leaf<Norm>,
    /// [H, rank, nope]: queries into the latent space, or latents to keys.
    embed_q: Leaf<SwitchLinear>,
    /// [H, v, rank]: latents to values.
    unembed_out: Leaf<SwitchLinear>,
    o_proj: Leaf<Linear>,
    #[module(skip)]
    rope: Option<Rope>,
    #[module(skip)]
    spec: blueprint::Mla,
}

pub(super) fn build(s: &blueprint::Mla, leaves: &Leaves) -> Result<Mla> {
    let norm = |name: &str, dim: i32| Norm::load(leaves, name, &blueprint::Norm::rms(s.eps), &[dim]);
    let q_out = s.heads * (s.nope_dim + s.rope_dim);
    let (mut q_proj, mut q_a_proj, mut q_a_layernorm, mut q_b_proj) = (None, None, None, None);
    match s.q_rank {
        None => q_proj = Some(leaves.linear("q_proj", s.hidden, q_out, false)?),
        Some(r) => {
            q_a_proj = Some(leaves.linear("q_a_proj", s.hidden, r, s.bias)?);
            q_a_layernorm = Some(norm("q_a_layernorm", r)?);
            q_b_proj = Some(leaves.linear("q_b_proj", r, q_out, false)?);
        }
    }
    Ok(Mla {
        q_proj,
        q_a_proj,
        q_a_layernorm,
        q_b_proj,
        kv_a_proj_with_mqa: leaves.linear("kv_a_proj_with_mqa", s.hidden, s.kv_rank + s.rope_dim, s.bias)?,
        kv_a_layernorm: norm("kv_a_layernorm", s.kv_rank)?,
        embed_q: leaves.switch_linear("embed_q", s.heads, s.nope_dim, s.kv_rank, false)?,
        unembed_out: leaves.switch_linear("unembed_out", s.heads, s.kv_rank, s.v_dim, false)?,
        o_proj: leaves.linear("o_proj", s.heads * s.v_dim, s.hidden, s.bias)?,
        rope: s.rope.as_ref().map(Rope::new),
        spec: s.clone(),
    })
}

/// x [B, H or 1, L, in] times each head's matrix w [H, out, in], transposed or not.
fn per_head(w: &SwitchLinear, x: &Array, transpose: bool) -> Array {
    match (w.quant(), w.scales()) {
        (Some(q), Some(scales)) => mx::quantized_matmul(x, w.weight(), scales, w.biases(), transpose, q),
        _ if transpose => x.matmul(&w.weight().swapaxes(-1, -2)),
        _ => x.matmul(w.weight()),
    }
}

impl Mixer for Mla {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let [b, l, _] = x.dims();
        let q = match (&self.q_proj, &self.q_a_proj, &self.q_a_layernorm, &self.q_b_proj) {
            (None, Some(a), Some(n), Some(bp)) => bp.forward(&n.forward(&a.forward(x))),
            (Some(q), ..) => q.forward(x),
            _ => unreachable!("built with one or two query projections"),
        };
        let q = q.reshape([b, l, s.heads, s.nope_dim + s.rope_dim]).transpose([0, 2, 1, 3]);
        let q_nope = q.slice_axis(-1, 0..s.nope_dim);
        let q_pe = q.slice_axis(-1, s.nope_dim..s.nope_dim + s.rope_dim);
        let kv_a = self.kv_a_proj_with_mqa.forward(x);
        let latent = self.kv_a_layernorm.forward(&kv_a.slice_axis(-1, 0..s.kv_rank)).expand_dims(1);
        let k_pe = kv_a.slice_axis(-1, s.kv_rank..s.kv_rank + s.rope_dim).expand_dims(1);
        let kv = cache.kv();
        let position = kv.position();
        let turn = |a: Array| self.rope.as_ref().map_or(a.clone(), |r| r.forward(&a, &position));
        let (q_pe, k_pe) = (turn(q_pe), turn(k_pe));
        let mask = step.mask_with(kv, l, None, l > 1);
        let (latent, k_pe) = kv.update(latent, k_pe);
        // scores of the rotated parts go in as an additive mask
        let mut pe = (q_pe * s.scale).matmul(&k_pe.swapaxes(-1, -2));
        if let Mask::Array(m) = &mask {
            pe = mx::where_(m, &pe, lowest(&pe));
        }
        let attend = |q: &Array, k: &Array, v: &Array| {
            sdpa(q, k, v, Attend { scale: s.scale, mask: &Mask::Array(pe.clone()), sinks: None, softcap: None })
        };
        let o = if l == 1 {
            // in the latent space: no key or value is ever expanded
            let o = attend(&per_head(&self.embed_q, &q_nope, true), &latent, &latent);
            per_head(&self.unembed_out, &o, true)
        } else {
            attend(&q_nope, &per_head(&self.embed_q, &latent, false), &per_head(&self.unembed_out, &latent, true))
        };
        self.o_proj.forward(&o.transpose([0, 2, 1, 3]).reshape([b, l, -1]))
    }
}
