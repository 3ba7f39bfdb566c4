//! Mixture of block attention: a query's own block, and the past blocks that it likes best.

use super::attention::split_heads;
use super::heads::Output;
use super::history::{History, best};
use super::{Mixer, rope::Rope};
use crate::Result;
use crate::blueprint;
use crate::cache::Cache;
use crate::parts::{Norm, Step};
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

/// Block attention over [`blueprint::Moba`].
#[derive(Module)]
pub struct Moba {
    q_proj: Leaf<Linear>,
    k_proj: Leaf<Linear>,
    v_proj: Leaf<Linear>,
    q_norm: Option<Leaf<Norm>>,
    k_norm: Option<Leaf<Norm>>,
    output: Leaf<Output>,
    #[module(skip)]
    rope: Option<Rope>,
    #[module(skip)]
    spec: blueprint::Moba,
}

pub(super) fn build(s: &blueprint::Moba, leaves: &Leaves) -> Result<Moba> {
    let linear = |name: &str, heads: i32| leaves.linear(name, s.hidden, heads * s.head_dim, s.bias);
    let norm = |name: &str| s.qk_norm.as_ref().map(|n| Norm::load(leaves, name, n, &[s.head_dim])).transpose();
    Ok(Moba {
        q_proj: linear("q_proj", s.heads)?,
        k_proj: linear("k_proj", s.kv_heads)?,
        v_proj: linear("v_proj", s.kv_heads)?,
        q_norm: norm("q_norm")?,
        k_norm: norm("k_norm")?,
        output: Output::load(&s.output, leaves, s.hidden, s.heads, s.head_dim)?,
        rope: s.rope.as_ref().map(Rope::new),
        spec: s.clone(),
    })
}

/// q [B, H, L, D] over all keys: each sees the tokens of `count` blocks of `block`, its own among them: [B, H, L, D].
pub fn attend(q: &Array, past: &History, block: i32, count: i32) -> Array {
    let scale = (q.dim(-1) as f32).powf(-0.5);
    let (heads, groups) = (q.dim(1), past.keys.dim(1));
    let means = mx::repeat(&History::means(&past.keys, block), heads / groups, 1).swapaxes(-1, -2);
    let out: Vec<Array> = past
        .queries(q.dim(2))
        .map(|some| {
            let q = q.slice_axis(2, some.from..some.to);
            if count <= 1 {
                return past.attend(&q, 0, some.seen, some.causal(0), scale);
            }
            // whole blocks that have ended; the own one, whole or not, comes on top
            let all = (some.seen + block - 1) / block;
            let whole = means.dim(-1).min(all);
            let own = mx::floor_divide(&some.at, block);
            let scores = q.astype(Dtype::Float32).matmul(&means.slice_axis(-1, 0..whole));
            let chosen = best(&scores, &mx::arange(0, whole, 1, None).less(&own), count - 1);
            let chosen = match all - whole {
                0 => chosen,
                more => {
                    let [b, h, n, _] = chosen.dims();
                    mx::concatenate(&[chosen, mx::zeros([b, h, n, more], Dtype::Bool)], -1)
                }
            };
            let blocks = chosen.logical_or(mx::arange(0, all, 1, None).eq(&own));
            past.attend(&q, 0, some.seen, some.tokens(&blocks, block), scale)
        })
        .collect();
    mx::concatenate(&out, 2)
}

impl Mixer for Moba {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let s = &self.spec;
        let kv = cache.part(0).kv();
        let (q, k) = (split_heads(&self.q_proj.forward(x), s.heads), split_heads(&self.k_proj.forward(x), s.kv_heads));
        let v = split_heads(&self.v_proj.forward(x), s.kv_heads);
        let norm = |n: &Option<Leaf<Norm>>, a: Array| n.as_ref().map_or(a.clone(), |n| n.forward(&a));
        let at = kv.position();
        let turn = |a: Array| self.rope.as_ref().map_or(a.clone(), |r| r.forward(&a, &at));
        let (q, k) = (turn(norm(&self.q_norm, q)), turn(norm(&self.k_norm, k)));
        let past = History::update(kv, k, v);
        // one block is all of them
        let count = if s.dense_decode && x.dim(1) == 1 { 1 } else { s.count };
        self.output.forward(&attend(&q, &past, s.block, count), x)
    }
}
