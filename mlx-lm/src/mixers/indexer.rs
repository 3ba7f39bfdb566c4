//! The lightning indexer: which keys sparse attention sees (DeepSeek-V3.2).

use super::{attention::split_heads, rope::Rope};
use crate::Result;
use crate::blueprint::{self, Mla};
use crate::cache::Kv;
use crate::parts::Norm;
use crate::weights::Leaves;
use mlx::fast::Mask;
use mlx::nn::{Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

/// Scores sum_h w_h relu(q_h k) of all keys, from the layer's input and its low-rank queries.
#[derive(Module)]
pub(super) struct Indexer {
    wq_b: Leaf<Linear>,
    wk: Leaf<Linear>,
    k_norm: Leaf<Norm>,
    weights_proj: Leaf<Linear>,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    spec: blueprint::Indexer,
}

/// What the indexer leaves of the keys.
pub(super) enum Chosen {
    /// All of them. The array is the indexer's keys, which nothing else makes the graph compute.
    All(Array),
    /// These, per query: [B, 1, L, top_k].
    Some(Array),
}

impl Indexer {
    pub fn load(s: &blueprint::Indexer, m: &Mla, rank: i32, leaves: &Leaves) -> Result<Indexer> {
        Ok(Indexer {
            wq_b: leaves.linear("wq_b", rank, s.heads * s.head_dim, false)?,
            wk: leaves.linear("wk", m.hidden, s.head_dim, false)?,
            k_norm: Norm::load(leaves, "k_norm", &blueprint::Norm::layer(1e-5, true), &[s.head_dim])?,
            weights_proj: leaves.linear("weights_proj", m.hidden, s.heads, false)?,
            rope: Rope::new(&s.rope),
            spec: s.clone(),
        })
    }

    /// x [B, L, D] and its low-rank queries [B, L, rank]; `mask` is that of the attention.
    pub fn choose(&self, x: &Array, low: &Array, mask: &Mask, kv: &mut dyn Kv) -> Chosen {
        let s = &self.spec;
        let position = kv.position();
        let q = self.rope.forward(&split_heads(&self.wq_b.forward(low), s.heads), &position);
        let k = self.rope.forward(&self.k_norm.forward(&self.wk.forward(x)).expand_dims(1), &position);
        // one tensor per token: values of no width
        let none = k.slice_axis(-1, 0..0);
        let (keys, _) = kv.update(k, none);
        if keys.dim(2) <= s.top_k {
            return Chosen::All(keys);
        }
        let weights = self.weights_proj.forward(x) * ((s.heads * s.head_dim) as f32).powf(-0.5);
        let scores = mx::maximum(q.matmul(&keys.swapaxes(-1, -2)), 0.0);
        let mut scores = (scores * weights.swapaxes(-1, -2).expand_dims(-1)).sum_keepdims(1);
        if let Mask::Array(m) = mask {
            scores = mx::where_(m, &scores, Array::scalar(f64::NEG_INFINITY, scores.dtype()));
        }
        // many scores are 0, where all heads are cut off: of equal ones this call takes those that Python's takes
        let rest = keys.dim(2) - s.top_k;
        let best = mx::argpartition(&scores, rest, -1).slice_axis(-1, rest..keys.dim(2));
        Chosen::Some(best.stop_gradient())
    }
}

/// Bool [B, 1, L, T]: the chosen keys that the mask lets through.
pub(super) fn chosen_mask(chosen: &Array, total: i32, mask: &Mask) -> Mask {
    let [b, _, l, _] = chosen.dims();
    let none = mx::zeros([b, 1, l, total], Dtype::Bool);
    let seen = mx::put_along_axis(&none, chosen, Array::scalar(true, Dtype::Bool), -1);
    Mask::Array(match mask {
        Mask::Array(m) => seen.logical_and(m),
        _ => seen,
    })
}

/// Rows of keys [B, 1, T, width] that the one query chose: [B, 1, top_k, width].
pub(super) fn chosen_rows(chosen: &Array, keys: &Array) -> Array {
    let [b, _, _, k] = chosen.dims();
    let index = mx::broadcast_to(&chosen.reshape([b, 1, k, 1]), [b, 1, k, keys.dim(-1)]);
    mx::take_along_axis(keys, &index, 2)
}
