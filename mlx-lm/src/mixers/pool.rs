//! Groups of tokens pooled into one row each, and which of these a query sees (DeepSeek-V4.1).

use super::attention::split_heads;
use super::rope::Rope;
use super::rounding::{ScaleType, to_fp4};
use crate::Result;
use crate::blueprint::{self, CompressedAttention as Spec, Pool, PoolIndexer};
use crate::cache::{Cache, OpenGroup, Position};
use crate::parts::{Norm, Step};
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module};
use mlx::{self as mx, Array, Dtype};

/// Under which names a layer leaves rows, their index keys, and its choice, to later ones.
const ROWS: &str = "pooled rows";
const INDEX_KEYS: &str = "pooled index keys";
const CHOSEN: &str = "chosen pooled rows";
const REACHED: &str = "chosen pooled rows that a query reaches";
const CANDIDATES: &str = "candidates among pooled rows";

/// x with its last features rotated, in float32.
pub(super) fn turn_last(rope: &Rope, x: &Array, position: &Position) -> Array {
    let at = x.dim(-1) - rope.dims();
    let tail = rope.forward(&x.slice_axis(-1, at..x.dim(-1)).astype(Dtype::Float32), position);
    mx::concatenate(&[x.slice_axis(-1, 0..at), tail.astype(x.dtype())], -1)
}

/// The part of a layer that makes rows: sums of a group's tokens, weighed by a softmax per feature.
#[derive(Module)]
pub(super) struct Compressor {
    kv_proj: Leaf<Linear>,
    gate_proj: Option<Leaf<Linear>>,
    kv_norm: Leaf<Norm>,
    #[module(skip)]
    ratio: i32,
    /// Rotates at the position of a group's first token.
    #[module(skip)]
    rope: Rope,
}

impl Compressor {
    pub fn load(s: &Spec, p: &Pool, rope: &Rope, leaves: &Leaves) -> Result<Compressor> {
        let linear = |name: &str| leaves.linear(name, s.hidden, s.head_dim, false);
        Ok(Compressor {
            kv_proj: linear("kv_proj")?,
            gate_proj: (p.ratio > 1).then(|| linear("gate_proj")).transpose()?,
            kv_norm: Norm::load(leaves, "kv_norm", &blueprint::Norm::rms(s.eps), &[s.head_dim])?,
            ratio: p.ratio,
            rope: rope.every(p.ratio),
        })
    }

    /// The rows [B, n, D] of groups that x [B, L, D] fills, not rotated yet.
    fn pool(&self, x: &Array, open: &mut OpenGroup) -> Option<Array> {
        let Some(gate_proj) = &self.gate_proj else { return Some(self.kv_norm.forward(&self.kv_proj.forward(x))) };
        let wide = x.astype(Dtype::Float32);
        let (rows, gates) = open.close(self.kv_proj.forward(&wide), gate_proj.forward(&wide), self.ratio)?;
        let grouped = |a: &Array| a.unflatten(1, [-1, self.ratio]);
        let pooled = (grouped(&rows) * mx::softmax(&grouped(&gates), 2)).sum(2);
        Some(self.kv_norm.forward(&pooled.astype(x.dtype())))
    }

    /// Adds the rows that x fills, and index keys with an indexer, to the layer's cache, and leaves all of them.
    pub fn run(&self, x: &Array, start: i32, indexer: Option<&Indexer>, step: &Step, cache: &mut dyn Cache) {
        // groups begin at token 0: the open one is that of the next token
        let first = Position::At(start / self.ratio);
        let new = self.pool(x, cache.part(2).of::<OpenGroup>());
        let kv = cache.part(1).kv();
        let seen = match new {
            None => kv.fetch(),
            Some(rows) => {
                let turned = |a: &Array| turn_last(&self.rope, &a.expand_dims(1), &first);
                let keys = match indexer.and_then(|i| i.keys(&rows)) {
                    Some(k) => to_fp4(&turned(&k), 32, ScaleType::PowerOfTwo),
                    None => rows.expand_dims(1).slice_axis(-1, 0..0),
                };
                Some(kv.update(to_fp4(&turned(&rows), 16, ScaleType::Fp8), keys))
            }
        };
        let b = x.dim(0);
        let (rows, keys) = seen.unwrap_or_else(|| {
            let none = mx::zeros([b, 1, 0, self.kv_proj.out_features()], x.dtype());
            (none.clone(), none)
        });
        step.put(ROWS, rows);
        if indexer.is_some() {
            step.put(INDEX_KEYS, keys);
        }
    }
}

/// Scores pooled rows by small heads, and chooses the best for each query.
#[derive(Module)]
pub(super) struct Indexer {
    q_b_proj: Leaf<Linear>,
    weights_proj: Leaf<Linear>,
    k_proj: Option<Leaf<Linear>>,
    k_norm: Option<Leaf<Norm>>,
    #[module(skip)]
    ratio: i32,
    #[module(skip)]
    spec: PoolIndexer,
}

impl Indexer {
    pub fn load(s: &Spec, p: &Pool, i: &PoolIndexer, leaves: &Leaves) -> Result<Indexer> {
        let norm = || Norm::load(leaves, "k_norm", &blueprint::Norm::rms(s.eps), &[i.head_dim]);
        Ok(Indexer {
            q_b_proj: leaves.linear("q_b_proj", s.q_rank, i.heads * i.head_dim, false)?,
            weights_proj: leaves.linear("weights_proj", s.hidden, i.heads, false)?,
            k_proj: p.makes.then(|| leaves.linear("k_proj", s.head_dim, i.head_dim, false)).transpose()?,
            k_norm: p.makes.then(norm).transpose()?,
            ratio: p.ratio,
            spec: i.clone(),
        })
    }

    /// Index keys [B, n, d] of pooled rows [B, n, D].
    fn keys(&self, rows: &Array) -> Option<Array> {
        let (proj, norm) = (self.k_proj.as_ref()?, self.k_norm.as_ref()?);
        Some(norm.forward(&proj.forward(rows)))
    }

    /// Leaves the choice of the queries x [B, L, D], whose low-rank form is `low`, the first at `start`.
    pub fn run(&self, x: &Array, low: &Array, start: i32, rope: &Rope, step: &Step) {
        let (s, [b, l, _]) = (&self.spec, x.dims());
        let Some(keys) = step.get(INDEX_KEYS).filter(|k| k.dim(2) > 0) else {
            step.put(CHOSEN, mx::zeros([b, 1, l, 0], Dtype::Uint32));
            step.put(REACHED, mx::zeros([b, 1, l, 0], Dtype::Bool));
            return;
        };
        let n = keys.dim(2);
        let q = turn_last(rope, &split_heads(&self.q_b_proj.forward(low), s.heads), &Position::At(start));
        let q = to_fp4(&q, 32, ScaleType::PowerOfTwo).astype(Dtype::Float32);
        let weights = self.weights_proj.forward(x).astype(Dtype::Float32) * (s.heads as f32).powf(-0.5);
        let scores = q.matmul(&keys.astype(Dtype::Float32).swapaxes(-1, -2));
        let scores = mx::maximum(scores, 0.0) * (s.head_dim as f32).powf(-0.5);
        let scores = (scores * weights.swapaxes(-1, -2).expand_dims(-1)).sum_keepdims(1);
        // a query sees the groups that end at or before it
        let ended = mx::floor_divide(mx::arange(start + 1, start + 1 + l, 1, None), self.ratio).expand_dims(-1);
        let never = Array::scalar(f64::NEG_INFINITY, Dtype::Float32);
        let mut scores = mx::where_(mx::arange(0, n, 1, None).less(&ended), &scores, &never);
        match (s.candidates, step.get(CANDIDATES)) {
            (Some((count, size)), _) => step.put(CANDIDATES, candidates(&scores, &ended, count, size)),
            (None, Some(c)) => scores = mx::where_(c, &scores, &never),
            (None, None) => {}
        }
        let k = s.top_k.min(n);
        let chosen = mx::argpartition(&-scores, k - 1, -1).slice_axis(-1, 0..k).stop_gradient();
        step.put(REACHED, chosen.astype(Dtype::Int32).less(&ended));
        step.put(CHOSEN, chosen);
    }
}

/// Bool like scores [B, 1, L, n]: rows of the `count` best blocks of `size`, always with the newest, which is only partly
/// full.
fn candidates(scores: &Array, ended: &Array, count: i32, size: i32) -> Array {
    let n = scores.dim(-1);
    let never = f32::NEG_INFINITY;
    let more = (size - n % size) % size;
    let padded = mx::pad(scores, &[(0, 0), (0, 0), (0, 0), (0, more)], never, mx::PadMode::Constant);
    let best = padded.unflatten(-1, [-1, size]).max(-1);
    let blocks = best.dim(-1);
    let last = mx::where_(ended.greater(0), mx::floor_divide(ended - 1, size), -1);
    let best = mx::where_(mx::arange(0, blocks, 1, None).eq(&last), f32::INFINITY, &best);
    let k = count.min(blocks);
    let chosen = mx::argpartition(&-&best, k - 1, -1).slice_axis(-1, 0..k);
    // where fewer blocks are reached, the others score -infinity
    let reached = mx::take_along_axis(&best, &chosen, -1).greater(never);
    let blocks = mx::put_along_axis(&mx::zeros(best.shape(), Dtype::Bool), &chosen, &reached, -1);
    mx::repeat(&blocks, size, -1).slice_axis(-1, 0..n)
}

/// The pooled rows [B, n, D], which of them each query chose [B, L, k], and which of these it reaches.
pub(super) fn chosen_rows(step: &Step) -> Option<(Array, Array, Array)> {
    let (rows, chosen, reached) = (step.get(ROWS)?, step.get(CHOSEN)?, step.get(REACHED)?);
    (rows.dim(2) > 0 && chosen.dim(3) > 0).then(|| (rows.squeeze(1), chosen.squeeze(1), reached.squeeze(1)))
}
