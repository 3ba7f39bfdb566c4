//! Linear recurrences of sequence mixers, and the short convolutions before them: whole prompts and single steps through
//! the same function.
//!
//! Both scans start from a state, zeros if there is none, and return the state behind the last token, so that a sequence
//! may be cut anywhere. States and sums are float32, whatever the inputs are. There are no masks: a token that shall
//! leave the state as it is has decay 0 (g or dt) and writes nothing (beta or k 0), wherever it stands in its row.

use super::ShortConv;
use super::cuda::{self, recurrent as on_gpu};
use crate::error::refuse;
use crate::{Array, plain};

/// Inputs of [`linear_scan`], tokens L behind heads. Each may have fewer heads than H, the most that any of them has:
/// head h reads head `h / (H / its own)`.
#[derive(Debug, Clone, Copy)]
pub struct LinearScan<'a> {
    /// [B, Hq, L, K]
    pub q: &'a Array,
    /// [B, Hk, L, K]
    pub k: &'a Array,
    /// [B, Hv, L, V]
    pub v: &'a Array,
    /// Log-decays [B, Hg, L, 1 or K], one per head or one per key dimension; none is positive, `-inf` forgets.
    pub g: &'a Array,
    pub rule: Rule<'a>,
}

/// How a token writes into the state S `[V, K]`, faded by its g.
#[derive(Debug, Clone, Copy)]
pub enum Rule<'a> {
    /// `S += beta v k^T`, beta [B, Hb, L, 1] or 1: retention, gla, mamba-2 (beta is dt).
    Add { beta: Option<&'a Array> },
    /// `S += beta (v - S k) k^T`, beta [B, Hb, L, 1]: the delta rules. S is read faded.
    Delta { beta: &'a Array },
    /// `S += v k^T - (S' r) e^T`, S' before it fades, r and e [B, Hr, L, K]: rwkv7.
    Remove { at: &'a Array, under: &'a Array },
}

impl<'a> Rule<'a> {
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &'a Array> + use<'a> {
        let [a, b] = match *self {
            Rule::Add { beta } => [beta, None],
            Rule::Delta { beta } => [Some(beta), None],
            Rule::Remove { at, under } => [Some(at), Some(under)],
        };
        a.into_iter().chain(b)
    }
}

impl<'a> LinearScan<'a> {
    /// All inputs: q, k, v, g, then the rule's.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &'a Array> + use<'a> {
        [self.q, self.k, self.v, self.g].into_iter().chain(self.rule.arrays())
    }
    /// H.
    pub(crate) fn heads(&self) -> i32 {
        self.arrays().map(|a| a.dim(1)).max().unwrap_or(0)
    }

    #[track_caller]
    fn check(&self, state: Option<&Array>) {
        let four = self.arrays().all(|a| a.ndim() == 4);
        let fits = four && {
            let ([b, _, l, d], h) = (self.q.dims(), self.heads());
            let width = |a: &Array, one: bool| a.dim(3) == d || one && a.dim(3) == 1;
            let rule = match self.rule {
                Rule::Remove { at, under } => width(at, false) && width(under, false),
                Rule::Add { .. } | Rule::Delta { .. } => self.rule.arrays().all(|beta| beta.dim(3) == 1),
            };
            let rows = |a: &Array| a.dim(0) == b && a.dim(2) == l && a.dim(1) > 0 && h % a.dim(1) == 0;
            rule && width(self.k, false)
                && width(self.g, true)
                && self.arrays().all(rows)
                && l > 0
                && state.is_none_or(|s| s.shape() == [b, h, self.v.dim(3), d])
        };
        if !fits {
            let shapes: Vec<_> = self.arrays().chain(state).map(Array::shape).collect();
            refuse("linear_scan", format!("shapes {shapes:?} of q, k, v, g, the rule and the state do not fit"));
        }
    }
}

/// `S = S diag(e^g)`, a write by the rule, `o = S q`, for one token after the other: outputs [B, H, L, V] and the state
/// [B, H, V, K] behind the last token, both float32.
///
/// Kernels go through the tokens, on the CPU and on CUDA (there with the state in registers); the plain form computes
/// chunks of tokens at once. Nothing overflows at any length or decay.
#[track_caller]
pub fn linear_scan(i: &LinearScan<'_>, state: Option<Array>) -> (Array, Array) {
    i.check(state.as_ref());
    if let Some(gpu) = cuda::current_gpu()
        && !i.arrays().chain(&state).any(super::backend::is_traced)
        && let Some(done) = on_gpu::linear_scan(gpu, i, state.as_ref())
    {
        return done;
    }
    crate::cpu::linear_scan(i, state.as_ref()).unwrap_or_else(|| plain::linear_scan(i, state))
}

/// Inputs of [`selective_scan`], channels D last.
#[derive(Debug, Clone, Copy)]
pub struct SelectiveScan<'a> {
    /// [B, L, D]
    pub u: &'a Array,
    /// Time steps [B, L, D], none negative.
    pub dt: &'a Array,
    /// [D, N], none positive.
    pub a: &'a Array,
    /// [B, L, N]
    pub b: &'a Array,
    /// [B, L, N]
    pub c: &'a Array,
    /// How much of u goes straight to y: `[D]`.
    pub skip: &'a Array,
}

impl<'a> SelectiveScan<'a> {
    /// All inputs, in their order.
    pub(crate) fn arrays(&self) -> [&'a Array; 6] {
        [self.u, self.dt, self.a, self.b, self.c, self.skip]
    }
    /// A scan over the first arrays of a slice, in that order.
    pub(crate) fn over(a: &'a [Array]) -> SelectiveScan<'a> {
        SelectiveScan { u: &a[0], dt: &a[1], a: &a[2], b: &a[3], c: &a[4], skip: &a[5] }
    }

    #[track_caller]
    fn check(&self, state: Option<&Array>) {
        let fits = self.u.ndim() == 3 && self.a.ndim() == 2 && {
            let ([rows, l, d], n) = (self.u.dims(), self.a.dim(1));
            self.dt.shape() == [rows, l, d]
                && self.a.dim(0) == d
                && [self.b, self.c].iter().all(|x| x.shape() == [rows, l, n])
                && self.skip.shape() == [d]
                && l > 0
                && state.is_none_or(|s| s.shape() == [rows, d, n])
        };
        if !fits {
            let shapes: Vec<_> = self.arrays().into_iter().chain(state).map(Array::shape).collect();
            refuse("selective_scan", format!("shapes {shapes:?} of u, dt, a, b, c, skip and the state do not fit"));
        }
    }
}

/// Mamba's recurrence, a state of N numbers per channel: `S = e^(dt a) S + dt u b`, `y = sum(S c) + skip u`, for one token
/// after the other: y [B, L, D] and the state [B, D, N] behind the last token, both float32.
///
/// Kernels go through the tokens, on the CPU and on CUDA; the plain form computes chunks of them at once.
#[track_caller]
pub fn selective_scan(i: &SelectiveScan<'_>, state: Option<Array>) -> (Array, Array) {
    i.check(state.as_ref());
    if let Some(gpu) = cuda::current_gpu()
        && !i.arrays().into_iter().chain(&state).any(super::backend::is_traced)
        && let Some(done) = on_gpu::selective_scan(gpu, i, state.as_ref())
    {
        return done;
    }
    crate::cpu::selective_scan(i, state.as_ref()).unwrap_or_else(|| plain::selective_scan(i, state))
}

/// Slots that forget, the first pass of gated slot attention: `S = diag(e^g) S + s k^T`, `o = S q`, for q, k [B, H, L, K] and
/// s, g [B, H, L, M], g not positive: outputs [B, H, L, M] and the state [B, H, M, K] behind the last token, both float32.
#[track_caller]
pub fn slot_scan(q: &Array, k: &Array, s: &Array, g: &Array, state: Option<Array>) -> (Array, Array) {
    let four = [q, k, s, g].iter().all(|a| a.ndim() == 4);
    let fits = four && {
        let ([b, h, l, d], m) = (q.dims(), s.dim(3));
        l > 0
            && k.shape() == q.shape()
            && s.shape() == [b, h, l, m]
            && g.shape() == s.shape()
            && state.as_ref().is_none_or(|a| a.shape() == [b, h, m, d])
    };
    if !fits {
        let shapes: Vec<_> = [q, k, s, g].into_iter().chain(&state).map(Array::shape).collect();
        refuse("slot_scan", format!("shapes {shapes:?} of q, k, s, g and the state do not fit"));
    }
    crate::cpu::slot_scan([q, k, s, g], state.as_ref()).unwrap_or_else(|| plain::slot_scan(q, k, s, g, state))
}

/// `y[t] = sum over j of weight[:, j] * x[t - taps + 1 + j] + bias`, with SiLU behind it if `silu`: x [B, L, C] to y and the
/// next tail [B, taps - 1, C], the last inputs. What came before x is in the tail, zeros if there is none.
#[track_caller]
pub fn short_conv(x: &Array, conv: &ShortConv<'_>, silu: bool) -> (Array, Array) {
    let fits = x.ndim() == 3 && conv.weight.ndim() == 3 && {
        let ([b, l, c], taps) = (x.dims(), conv.weight.dim(1));
        l > 0
            && taps > 0
            && conv.weight.shape() == [c, taps, 1]
            && conv.bias.is_none_or(|a| a.shape() == [c])
            && conv.tail.is_none_or(|a| a.shape() == [b, taps - 1, c])
    };
    if !fits {
        let shapes: Vec<_> = [x].into_iter().chain(conv.arrays()).map(Array::shape).collect();
        refuse("short_conv", format!("shapes {shapes:?} of x, weight, bias and tail do not fit"));
    }
    crate::cpu::short_conv(x, conv, silu).unwrap_or_else(|| plain::short_conv(x, conv, silu))
}
