//! Choosing a token from log-probabilities (`mlx_lm.sample_utils.make_sampler`).

use crate::{Error, Result};
use mlx::{self as mx, Array, Dtype, Scan};
use std::cell::RefCell;

/// How tokens are chosen. Filters apply in this order to the distribution at temperature 1: top-p, min-p, XTC, top-k.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// 0 takes the most likely token and ignores everything else.
    pub temp: f32,
    /// Smallest set of tokens with this much probability; off at 0 and 1.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one.
    pub min_p: f32,
    pub min_tokens_to_keep: usize,
    /// Keeps this many tokens; off at 0.
    pub top_k: usize,
    /// Chance to drop all tokens above the threshold but the least likely of them.
    pub xtc_probability: f32,
    pub xtc_threshold: f32,
    /// Ids that XTC never drops.
    pub xtc_special_tokens: Vec<u32>,
    key: RefCell<Option<Array>>,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler {
            temp: 0.0,
            top_p: 0.0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            top_k: 0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            xtc_special_tokens: Vec::new(),
            key: RefCell::new(None),
        }
    }
}

impl Sampler {
    /// The most likely token.
    pub fn greedy() -> Self {
        Self::default()
    }

    /// Temperature sampling.
    pub fn temperature(temp: f32) -> Self {
        Sampler { temp, ..Self::default() }
    }

    /// With random numbers of its own, the same for the same seed; without, those of the thread's global key.
    pub fn seeded(self, seed: u64) -> Self {
        Sampler { key: RefCell::new(Some(mx::random::key(seed))), ..self }
    }

    pub fn is_greedy(&self) -> bool {
        self.temp == 0.0
    }

    /// Refuses values outside of their range, with the vocabulary's size for top-k.
    pub fn check(&self, vocab: usize) -> Result<()> {
        let fail = |what: &str| Err(Error::Request(what.to_string()));
        if !self.temp.is_finite() || self.temp < 0.0 {
            return fail(&format!("temperature {} is not a number >= 0", self.temp));
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return fail(&format!("top_p {} is not in 0..=1", self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return fail(&format!("min_p {} is not in 0..=1", self.min_p));
        }
        if self.min_tokens_to_keep == 0 {
            return fail("min_tokens_to_keep must be at least 1");
        }
        if self.top_k >= vocab && self.top_k > 0 {
            return fail(&format!("top_k {} is not below the vocabulary of {vocab}", self.top_k));
        }
        if !(0.0..=1.0).contains(&self.xtc_probability) || !(0.0..=0.5).contains(&self.xtc_threshold) {
            return fail("xtc_probability is in 0..=1 and xtc_threshold in 0..=0.5");
        }
        Ok(())
    }

    fn next_key(&self) -> Option<Array> {
        let mut slot = self.key.borrow_mut();
        let (keep, use_) = mx::random::split(slot.as_ref()?);
        *slot = Some(keep);
        Some(use_)
    }

    /// Token ids `[B]` from log-probabilities [B, V] (or logits, when greedy).
    pub fn sample(&self, logprobs: &Array) -> Array {
        if self.is_greedy() {
            return logprobs.argmax(-1);
        }
        let mut x = logprobs.clone();
        if self.top_p > 0.0 && self.top_p < 1.0 {
            x = top_p(&x, self.top_p);
        }
        if self.min_p > 0.0 {
            x = min_p(&x, self.min_p, self.min_tokens_to_keep);
        }
        if self.xtc_probability > 0.0 {
            x = self.xtc(&x);
        }
        if self.top_k > 0 {
            x = top_k(&x, self.top_k);
        }
        let key = self.next_key();
        mx::random::categorical(&(x * (1.0 / self.temp)), -1, key.as_ref())
    }

    fn xtc(&self, x: &Array) -> Array {
        let probs = mx::softmax_with(x, -1, true);
        let above = probs.gt(self.xtc_threshold);
        let least = mx::where_(&above, &probs, f32::INFINITY).min_keepdims(-1);
        let mut drop = probs.gt(&least);
        if !self.xtc_special_tokens.is_empty() {
            let mut keep = vec![true; x.dim(-1) as usize];
            self.xtc_special_tokens.iter().filter_map(|&i| keep.get_mut(i as usize).map(|k| *k = false)).count();
            drop = drop.logical_and(Array::from(keep));
        }
        let key = self.next_key();
        let skip = mx::random::uniform(0.0, 1.0, (), Dtype::Float32, key.as_ref()).gt(self.xtc_probability);
        mx::where_(&skip, x, mx::where_(&drop, f32::NEG_INFINITY, x))
    }
}

/// Keeps tokens with less than `p` of the probability strictly above them; ties are kept.
pub fn top_p(logprobs: &Array, p: f32) -> Array {
    let probs = logprobs.astype(Dtype::Float32).exp();
    let sorted = mx::sort(&probs, -1);
    // probability strictly above each token, from the top down
    let above = mx::cumsum_with(&sorted, -1, Scan { reverse: true, inclusive: false, ..Default::default() });
    let total = sorted.sum_keepdims(-1);
    let kept = above.lt(total * p);
    let lowest = mx::where_(&kept, &sorted, f32::INFINITY).min_keepdims(-1);
    mx::where_(probs.ge(&lowest), logprobs, f32::NEG_INFINITY)
}

/// Keeps tokens at least `p` times as likely as the most likely one, and `keep` in any case.
pub fn min_p(logprobs: &Array, p: f32, keep: usize) -> Array {
    let limit = logprobs.max_keepdims(-1) + p.ln();
    let mut drop = logprobs.lt(&limit);
    if keep > 1 {
        let n = logprobs.dim(-1);
        let k = (keep as i32).min(n);
        let top = mx::sort(logprobs, -1).slice_axis(-1, n - k..n - k + 1);
        drop = drop.logical_and(logprobs.lt(&top));
    }
    mx::where_(&drop, f32::NEG_INFINITY, logprobs)
}

/// Keeps the `k` most likely tokens.
pub fn top_k(logprobs: &Array, k: usize) -> Array {
    let k = k as i32;
    let order = mx::argpartition(&-logprobs, k - 1, -1);
    let rest = order.slice_axis(-1, k..logprobs.dim(-1));
    mx::put_along_axis(logprobs, &rest, f32::NEG_INFINITY, -1)
}
