//! Multi-head latent attention: one latent row and one rotated key row per token are cached (DeepSeek-V2), and with an
//! indexer only the keys that it chooses are attended to (DeepSeek-V3.2).

use super::indexer::{Chosen, Indexer, chosen_mask, chosen_rows};
use super::latent::Expand;
use super::{Mixer, attention, gate::Gate, rope::Rope};
use crate::blueprint::{self, MlaLayout};
use crate::cache::{Attend, Cache, lowest, sdpa};
use crate::parts::{Around, Norm, Step};
use crate::weights::Leaves;
use crate::{Error, Result};
use mlx::fast::{self, Columns, Fused, LatentAttention, Mask};
use mlx::nn::{Leaf, Linear, Module};
use mlx::{self as mx, Array};

/// Latent attention over [`blueprint::Mla`].
#[derive(Module)]
pub struct Mla {
    q_proj: Option<Leaf<Linear>>,
    q_a_proj: Option<Leaf<Linear>>,
    q_a_norm: Option<Leaf<Norm>>,
    q_b_proj: Option<Leaf<Linear>>,
    /// Latents, and rotated keys where these have no matrix of their own.
    kv_a_proj: Leaf<Linear>,
    k_rope: Option<Leaf<Linear>>,
    kv_a_norm: Option<Leaf<Norm>>,
    expand: Leaf<Expand>,
    gate: Option<Leaf<Gate>>,
    o_proj: Leaf<Linear>,
    indexer: Option<Leaf<Indexer>>,
    #[module(skip)]
    rope: Option<Rope>,
    #[module(skip)]
    spec: blueprint::Mla,
}

struct Names {
    /// Down, norm, up.
    q: [&'static str; 3],
    kv: [&'static str; 3],
}

fn names(layout: MlaLayout) -> Names {
    match layout {
        MlaLayout::Absorbed | MlaLayout::Joined => Names {
            q: ["q_a_proj", "q_a_layernorm", "q_b_proj"],
            kv: ["kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj"],
        },
        MlaLayout::Sequential => {
            Names { q: ["q_proj.0", "q_proj.1", "q_proj.2"], kv: ["kv_proj.0", "kv_proj.1", "kv_proj.2"] }
        }
    }
}

pub(super) fn build(s: &blueprint::Mla, leaves: &Leaves) -> Result<Mla> {
    let n = names(s.layout);
    let norm = |name: &str, dim: i32| {
        s.eps.map(|eps| Norm::load(leaves, name, &blueprint::Norm::rms(eps), &[dim])).transpose()
    };
    let q_out = s.heads * (s.nope_dim + s.rope_dim);
    let (mut q_proj, mut q_a_proj, mut q_a_norm, mut q_b_proj) = (None, None, None, None);
    match s.q_rank {
        None => q_proj = Some(leaves.linear("q_proj", s.hidden, q_out, false)?),
        Some(r) => {
            q_a_proj = Some(leaves.linear(n.q[0], s.hidden, r, s.bias)?);
            q_a_norm = norm(n.q[1], r)?;
            q_b_proj = Some(leaves.linear(n.q[2], r, q_out, false)?);
        }
    }
    let apart = s.layout == MlaLayout::Sequential;
    let kv_a_rows = s.kv_rank + if apart { 0 } else { s.rope_dim };
    let indexer = match (&s.indexer, s.q_rank) {
        (None, _) => None,
        (Some(i), Some(r)) => Some(Leaf::new("indexer", Indexer::load(i, s, r, &leaves.at("indexer"))?)),
        (Some(_), None) => {
            let message = "it reads low-rank queries, this attention has none".into();
            return Err(Error::Unsupported { what: "mixer", name: "indexer".into(), message });
        }
    };
    Ok(Mla {
        q_proj,
        q_a_proj,
        q_a_norm,
        q_b_proj,
        kv_a_proj: leaves.linear(n.kv[0], s.hidden, kv_a_rows, s.bias)?,
        k_rope: (apart && s.rope_dim > 0).then(|| leaves.linear("k_rope", s.hidden, s.rope_dim, s.bias)).transpose()?,
        kv_a_norm: norm(n.kv[1], s.kv_rank)?,
        expand: Leaf::new("", Expand::load(s, n.kv[2], leaves)?),
        gate: Gate::load(s.gate.as_ref(), leaves, s.hidden, s.heads, s.v_dim)?,
        o_proj: leaves.linear(&s.o, s.heads * s.v_dim, s.hidden, s.bias)?,
        indexer,
        rope: s.rope.as_ref().map(Rope::new),
        spec: s.clone(),
    })
}

fn normed(norm: &Option<Leaf<Norm>>, x: Array) -> Array {
    norm.as_ref().map_or(x.clone(), |n| n.forward(&x))
}

fn times(x: Array, factor: f32) -> Array {
    if factor == 1.0 { x } else { x * factor }
}

impl Mla {
    /// Queries [B, L, H (nope + rope)], and what they are expanded from.
    fn queries(&self, x: &Array) -> (Array, Array) {
        match (&self.q_proj, &self.q_a_proj, &self.q_b_proj) {
            (None, Some(a), Some(b)) => {
                let low = normed(&self.q_a_norm, a.forward(x));
                (b.forward(&low), low)
            }
            (Some(q), ..) => (q.forward(x), x.clone()),
            _ => unreachable!("built with one or two query projections"),
        }
    }

    /// Latents [B, 1, L, rank] and key rows [B, 1, L, rope] before their rotation.
    fn latents(&self, x: &Array) -> (Array, Array) {
        let s = &self.spec;
        let kv_a = self.kv_a_proj.forward(x);
        let rows = match &self.k_rope {
            Some(k) => k.forward(x),
            None => kv_a.slice_axis(-1, s.kv_rank..kv_a.dim(-1)),
        };
        let latent = normed(&self.kv_a_norm, kv_a.slice_axis(-1, 0..s.kv_rank));
        (times(latent, s.kv_factor).expand_dims(1), rows.expand_dims(1))
    }

    /// Attention of one token per row in the latent space by kernels: queries q [B, 1, H (nope + rope)] and latents with key
    /// rows behind them, before norm and rotation, to values [B, 1, H v]. `None`, with the cache as it was, where there are
    /// none.
    fn fused_step(&self, q: &Array, kv: Columns<'_>, cache: &mut dyn Cache) -> Option<Array> {
        let s = &self.spec;
        let plain = self.indexer.is_none()
            && self.k_rope.is_none()
            && s.query_scale.is_none()
            && (s.q_factor, s.kv_factor) == (1.0, 1.0);
        let cache = cache.as_decode().filter(|_| plain && fast::has_layer_kernels())?;
        let norm = match &self.kv_a_norm {
            Some(n) => Some(n.rms()?),
            None => None,
        };
        let rotation = match &self.rope {
            Some(r) => Some(r.rotation()?),
            None => None,
        };
        let step = LatentAttention {
            heads: s.heads,
            rank: s.kv_rank,
            rope: s.rope_dim,
            scale: s.scale,
            rotation,
            norm: norm.as_ref().map(|n| (&n.0, n.1)),
            window: s.window,
        };
        let b = q.dim(0);
        if !cache.is_latent_decodable(b, q.dtype(), &step) {
            return None;
        }
        let maps = self.expand.maps()?;
        let width = s.nope_dim + s.rope_dim;
        let q_nope = q.reshape([b, s.heads, 1, width]).slice_axis(-1, 0..s.nope_dim);
        let rotated = Columns { x: q, at: s.nope_dim, stride: width };
        let o = cache.decode_latent(rotated, &maps.queries(&q_nope), kv, &step)?;
        Some(maps.values(&o.expand_dims(2)).reshape([b, 1, -1]))
    }
}

impl Mixer for Mla {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let [b, l, _] = x.dims();
        let (q, low) = self.queries(x);
        if l == 1 && fast::has_layer_kernels() && self.k_rope.is_none() {
            let kv = self.kv_a_proj.forward(x);
            if let Some(o) = self.fused_step(&q, Columns::new(&kv, 0, 0), cache) {
                let heads = || o.reshape([b, 1, s.heads, -1]);
                return self.o_proj.forward(&self.gate.as_ref().map_or_else(|| o.clone(), |g| g.apply(heads(), x)));
            }
        }
        let mut q = times(attention::split_heads(&q, s.heads), s.q_factor);
        let (latent, k_pe) = self.latents(x);
        let kv = if self.indexer.is_some() { cache.part(0).kv() } else { cache.kv() };
        let position = kv.position();
        if let Some(f) = &s.query_scale {
            let f = attention::query_factor(f, &position, l);
            q = &q * f.astype(q.dtype());
        }
        let turn = |a: Array| self.rope.as_ref().map_or(a.clone(), |r| r.forward(&a, &position));
        let q_nope = q.slice_axis(-1, 0..s.nope_dim);
        let (q_pe, k_pe) = match s.rope_dim {
            0 => (None, k_pe),
            n => (Some(turn(q.slice_axis(-1, s.nope_dim..s.nope_dim + n))), turn(k_pe)),
        };
        let mut mask = step.mask_with(kv, l, s.window, l > 1);
        let (mut latent, mut k_pe) = kv.update(latent, k_pe);
        if let Some(indexer) = &self.indexer {
            match indexer.choose(x, &low, &mask, cache.part(1).kv()) {
                Chosen::All(keys) => {
                    // computed with this step, lest their graph grow from step to step
                    if let [with] = mx::depends(&[&latent], &[&keys]).as_slice() {
                        latent = with.clone();
                    }
                }
                Chosen::Some(i) if l == 1 => {
                    (latent, k_pe) = (chosen_rows(&i, &latent), chosen_rows(&i, &k_pe));
                    if let Mask::Array(m) = &mask {
                        mask = Mask::Array(mx::take_along_axis(m, &i, -1));
                    }
                }
                Chosen::Some(i) => mask = chosen_mask(&i, latent.dim(2), &mask),
            }
        }
        // scores of the rotated parts go in as an additive mask
        if let Some(q_pe) = q_pe {
            let mut pe = (q_pe * s.scale).matmul(&k_pe.swapaxes(-1, -2));
            if let Mask::Array(m) = &mask {
                pe = mx::where_(m, &pe, lowest(&pe));
            }
            mask = Mask::Array(pe);
        }
        let attend = |q: &Array, k: &Array, v: &Array| {
            sdpa(q, k, v, Attend { scale: s.scale, mask: &mask, sinks: None, softcap: None })
        };
        let o = match self.expand.maps().filter(|_| l == 1) {
            // in the latent space: no key or value is ever expanded
            Some(maps) => maps.values(&attend(&maps.queries(&q_nope), &latent, &latent)),
            None => {
                let (k, v) = self.expand.expand(&latent);
                attend(&q_nope, &k, &v)
            }
        };
        let o = o.transpose([0, 2, 1, 3]);
        self.o_proj.forward(&match &self.gate {
            Some(g) => g.apply(o, x),
            None => o.reshape([b, l, -1]),
        })
    }

    fn fused(&self, x: &Array, around: &Around<'_>, cache: &mut dyn Cache) -> Option<Array> {
        let s = &self.spec;
        let (kv_a, o_proj) = (self.kv_a_proj.matrix()?, self.o_proj.matrix()?);
        let first = match (&self.q_proj, &self.q_a_proj) {
            _ if self.gate.is_some() || self.indexer.is_some() => return None,
            (Some(q), _) => q.matrix()?,
            (None, a) => a.as_ref()?.matrix()?,
        };
        let y = fast::linear(x, &[first, kv_a], Fused { norm: Some(around.norm), ..Default::default() });
        let at = first.outputs();
        let low = y.slice_axis(-1, 0..at);
        let q = match (&self.q_b_proj, &self.q_a_norm) {
            (None, _) => low,
            (Some(b), None) => fast::linear(&low, &[b.matrix()?], Fused::default()),
            (Some(b), Some(n)) => {
                let (weight, eps) = n.rms()?;
                fast::linear(&low, &[b.matrix()?], Fused { norm: Some((&weight, eps)), ..Default::default() })
            }
        };
        let o = self.fused_step(&q, Columns::new(&y, at, s.kv_rank + s.rope_dim), cache)?;
        Some(fast::linear(&o, &[o_proj], around.after(x)))
    }

    fn first_weights(&self) -> [Option<&Array>; 2] {
        let q = self.q_a_proj.as_ref().or(self.q_proj.as_ref());
        [q.map(|q| q.weight()), Some(self.kv_a_proj.weight())]
    }
}
