//! Attention over a sliding window and chosen rows of pooled tokens (DeepSeek-V4.1).

use super::latent::PerHead;
use super::pool::{Compressor, Indexer, chosen_rows, turn_last};
use super::rounding::to_fp8;
use super::{Mixer, attention::split_heads, rope::Rope};
use crate::Result;
use crate::blueprint::{self, CompressedAttention as Spec};
use crate::cache::{Attend, Cache, Position, TokenWindow, sdpa};
use crate::parts::{Norm, Step};
use crate::weights::Leaves;
use mlx::fast::Mask;
use mlx::nn::{Leaf, Linear, Module, Param, SwitchLinear};
use mlx::{self as mx, Array, Dtype};

/// Attention of [`blueprint::CompressedAttention`].
#[derive(Module)]
pub struct CompressedAttention {
    q_a_proj: Leaf<Linear>,
    q_a_norm: Leaf<Norm>,
    q_b_proj: Leaf<Linear>,
    kv_proj: Leaf<Linear>,
    kv_norm: Leaf<Norm>,
    o_a_proj: Leaf<SwitchLinear>,
    o_b_proj: Leaf<Linear>,
    sinks: Leaf<Param>,
    compressor: Option<Leaf<Compressor>>,
    indexer: Option<Leaf<Indexer>>,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    back: Rope,
    #[module(skip)]
    spec: Spec,
}

pub(super) fn build(s: &Spec, leaves: &Leaves) -> Result<CompressedAttention> {
    let norm = |name: &str, dim: i32| Norm::load(leaves, name, &blueprint::Norm::rms(s.eps), &[dim]);
    let rope = Rope::new(&s.rope);
    let group = s.heads * s.head_dim / s.out_groups;
    let maker = s.pool.as_ref().filter(|p| p.makes);
    let chooser = s.pool.as_ref().and_then(|p| Some((p, p.chooses.as_ref()?)));
    Ok(CompressedAttention {
        q_a_proj: leaves.linear("q_a_proj", s.hidden, s.q_rank, false)?,
        q_a_norm: norm("q_a_norm", s.q_rank)?,
        q_b_proj: leaves.linear("q_b_proj", s.q_rank, s.heads * s.head_dim, false)?,
        kv_proj: leaves.linear("kv_proj", s.hidden, s.head_dim, false)?,
        kv_norm: norm("kv_norm", s.head_dim)?,
        o_a_proj: leaves.switch_linear("o_a_proj", s.out_groups, group, s.out_rank, false)?,
        o_b_proj: leaves.linear("o_b_proj", s.out_groups * s.out_rank, s.hidden, false)?,
        sinks: leaves.param("sinks", &[s.heads])?,
        compressor: maker
            .map(|p| {
                Ok::<_, crate::Error>(Leaf::new("compressor", Compressor::load(s, p, &rope, &leaves.at("compressor"))?))
            })
            .transpose()?,
        indexer: chooser
            .map(|(p, i)| Ok::<_, crate::Error>(Leaf::new("indexer", Indexer::load(s, p, i, &leaves.at("indexer"))?)))
            .transpose()?,
        back: rope.inverse(),
        rope,
        spec: s.clone(),
    })
}

/// Queries whose rows are gathered at once.
const QUERIES: i32 = 256;

/// Rows to attend to: [B, T, D], which ones for each query [B, L, k], and which of these count.
struct Rows {
    rows: Array,
    index: Array,
    counts: Array,
}

impl Rows {
    /// The window of each of `l` queries among rows that end with theirs.
    fn window(rows: Array, l: i32, window: i32) -> Rows {
        let (b, total) = (rows.dim(0), rows.dim(1));
        let width = window.min(total);
        let end = mx::arange(total - l, total, 1, None).expand_dims(-1);
        let first = mx::maximum(&end - (window - 1), 0);
        let index = first + mx::arange(0, width, 1, None);
        let counts = mx::broadcast_to(&index.less_equal(&end), [b, l, width]);
        Rows { rows, index: mx::broadcast_to(&mx::minimum(&index, total - 1), [b, l, width]), counts }
    }

    /// [B, n, k, D] of queries `from..to`, with what counts [B, n, k].
    fn gather(&self, from: i32, to: i32) -> (Array, Array) {
        let [b, total, _] = self.rows.dims();
        let cut = |a: &Array| a.slice_axis(1, from..to);
        let start = mx::arange(0, b * total, total, None).reshape([b, 1, 1]);
        (self.rows.flatten(0, 1).take(&(cut(&self.index).astype(Dtype::Int32) + start), 0), cut(&self.counts))
    }
}

impl CompressedAttention {
    /// q [B, H, L, D] over its own rows: every query is a batch row of its own, so that no result depends on how a
    /// prompt is cut, which the rounded rows of later layers would make a difference.
    fn attend(&self, q: &Array, all: &[Rows]) -> Array {
        let [b, h, l, d] = q.dims();
        // float32: at this head size a score in 16 bits would be too coarse
        let (q, sinks) = (q.astype(Dtype::Float32).swapaxes(1, 2), self.sinks.astype(Dtype::Float32));
        let parts: Vec<Array> = (0..l)
            .step_by(QUERIES as usize)
            .map(|from| {
                let to = (from + QUERIES).min(l);
                let (rows, counts): (Vec<Array>, Vec<Array>) = all.iter().map(|r| r.gather(from, to)).unzip();
                let n = b * (to - from);
                let keys = mx::concatenate(&rows, 2).reshape([n, 1, -1, d]).astype(Dtype::Float32);
                let mask = mx::concatenate(&counts, -1).reshape([n, 1, 1, -1]);
                let q = q.slice_axis(1, from..to).reshape([n, h, 1, d]);
                let mask = Mask::Array(mask);
                let how = Attend { scale: (d as f32).powf(-0.5), mask: &mask, sinks: Some(&sinks), softcap: None };
                sdpa(&q, &keys, &keys, how).reshape([b, to - from, h, d])
            })
            .collect();
        mx::concatenate(&parts, 1).swapaxes(1, 2)
    }
}

impl Mixer for CompressedAttention {
    fn forward(&self, x: &Array, step: &Step, cache: &mut dyn Cache) -> Array {
        let (s, l) = (&self.spec, x.dim(1));
        let start = cache.offset();
        let position = Position::At(start);
        let low = self.q_a_norm.forward(&self.q_a_proj.forward(x));
        let q = split_heads(&self.q_b_proj.forward(&low), s.heads);
        let q = turn_last(&self.rope, &q, &position);
        let row = self.kv_norm.forward(&self.kv_proj.forward(x)).expand_dims(1);
        let row = to_fp8(&turn_last(&self.rope, &row, &position), 32).squeeze(1);
        let window = if self.compressor.is_some() { cache.part(0) } else { &mut *cache };
        let mut rows = vec![Rows::window(window.of::<TokenWindow>().update(row), l, s.window)];
        if let Some(c) = &self.compressor {
            c.run(x, start, self.indexer.as_deref(), step, cache);
        }
        if let Some(i) = &self.indexer {
            i.run(x, &low, start, &self.rope, step);
        }
        if let Some((pooled, index, counts)) = s.pool.as_ref().and_then(|_| chosen_rows(step)) {
            rows.push(Rows { rows: pooled, index, counts });
        }
        let o = turn_last(&self.back, &self.attend(&q, &rows).astype(x.dtype()), &position);
        // [B, H, L, D] -> [B, groups, L, features of a group]
        let o = o.swapaxes(1, 2).flatten(2, 3).unflatten(2, [s.out_groups, -1]).swapaxes(1, 2);
        let o = PerHead::of(&self.o_a_proj).forward(&o);
        self.o_b_proj.forward(&o.transpose([0, 2, 1, 3]).flatten(2, 3))
    }
}
