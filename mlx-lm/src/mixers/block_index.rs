//! Attention to the blocks of keys that an index chooses, a few per group of heads and query (minimax_m3).

use super::{attention::split_heads, rope::Rope};
use crate::Result;
use crate::blueprint;
use crate::cache::{Kv, Position};
use crate::parts::Norm;
use crate::weights::Leaves;
use mlx::fast::Mask;
use mlx::nn::{Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

/// Small queries per group of heads, and one small key, whose best product scores a block.
#[derive(Module)]
pub(super) struct BlockIndex {
    q_proj: Leaf<Linear>,
    k_proj: Leaf<Linear>,
    q_norm: Leaf<Norm>,
    k_norm: Leaf<Norm>,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    spec: blueprint::BlockIndex,
}

impl BlockIndex {
    pub fn load(s: &blueprint::BlockIndex, hidden: i32, leaves: &Leaves) -> Result<Leaf<BlockIndex>> {
        let index = BlockIndex {
            q_proj: leaves.linear("index_q_proj", hidden, s.heads * s.head_dim, false)?,
            k_proj: leaves.linear("index_k_proj", hidden, s.head_dim, false)?,
            q_norm: Norm::load(leaves, "index_q_norm", &s.norm, &[s.head_dim])?,
            k_norm: Norm::load(leaves, "index_k_norm", &s.norm, &[s.head_dim])?,
            rope: Rope::new(&s.rope),
            spec: s.clone(),
        };
        Ok(Leaf::new("", index))
    }

    /// The index keys [B, 1, T, D] with those of x [B, L, hidden], and which keys its tokens see: bool [B, heads, L, T].
    /// That is `causal`, bool [.., L, T], where no more blocks exist than are chosen.
    pub fn choose(&self, x: &Array, causal: &Mask, kv: &mut dyn Kv, heads: i32) -> (Array, Mask) {
        let s = &self.spec;
        let start = kv.position();
        let k = self.k_norm.forward(&split_heads(&self.k_proj.forward(x), 1));
        let k = self.rope.forward(&k, &start);
        // one tensor per token: values of no width
        let none = k.slice_axis(-1, 0..0);
        let (keys, _) = kv.update(k, none);
        let (l, total) = (x.dim(1), keys.dim(2));
        let blocks = (total + s.size - 1) / s.size;
        let Mask::Array(causal) = causal else { return (keys, causal.clone()) };
        if s.top >= blocks {
            return (keys, Mask::Array(causal.clone()));
        }
        let q = self.q_norm.forward(&split_heads(&self.q_proj.forward(x), s.heads));
        let q = self.rope.forward(&q, &start).astype(Dtype::Float32);
        let never = Array::scalar(f64::NEG_INFINITY, Dtype::Float32);
        // a later key must not win a block
        let scores = mx::where_(causal, q.matmul(&keys.astype(Dtype::Float32).swapaxes(-1, -2)), &never);
        let slot = mx::arange(0, total, 1, None);
        // blocks are cut over the tokens of a row, not over its padding
        let places = match &start {
            Position::At(_) => None,
            Position::Rows(rows) => Some((total - l - rows).reshape([-1, 1, 1, 1])),
        };
        let scores = match &places {
            None => scores,
            Some(padding) => {
                let from = padding + &slot;
                let inside = from.less(total);
                let from = mx::broadcast_to(&mx::minimum(&from, total - 1), scores.shape());
                mx::where_(&inside, mx::take_along_axis(&scores, &from, -1), &never)
            }
        };
        let missing = blocks * s.size - total;
        let full = mx::pad(&scores, &[(0, 0), (0, 0), (0, 0), (0, missing)], f32::NEG_INFINITY, mx::PadMode::Constant);
        let best = full.unflatten(-1, [blocks, s.size]).max(-1);
        let own = mx::floor_divide(start.range(l), s.size).expand_dims(-1);
        let own = if own.ndim() == 3 { own.expand_dims(1) } else { own };
        let block = mx::arange(0, blocks, 1, None);
        let local = block.less_equal(&own).logical_and(block.greater(&own - s.local));
        let best = mx::where_(&local, Array::scalar(f64::INFINITY, Dtype::Float32), &best);
        let chosen = mx::argpartition(&-&best, s.top - 1, -1).slice_axis(-1, 0..s.top).stop_gradient();
        let none = mx::zeros(best.shape(), Dtype::Bool);
        let keep = mx::put_along_axis(&none, &chosen, Array::scalar(true, Dtype::Bool), -1);
        let place = places.map_or_else(|| slot.reshape([1, 1, 1, -1]), |padding| &slot - padding);
        let block = mx::floor_divide(mx::maximum(&place, 0), s.size);
        let [b, h, l, _] = keep.dims();
        let keep = mx::take_along_axis(&keep, &mx::broadcast_to(&block, [b, h, l, total]), -1);
        (keys, Mask::Array(mx::repeat(&keep.logical_and(causal), heads / h, 1)))
    }
}
