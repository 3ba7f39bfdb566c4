//! The linear recurrence that mamba-2, the delta rules and rwkv7 share (gla, retnet and kda fit it, too).
//!
//! `S[t] = S[t-1] diag(e^g[t]) + v[t] k[t]^T - (S[t-1] r[t]) e[t]^T`, `o[t] = S[t] q[t]`, with S `[V, K]` in float32 and
//! g <= 0, one number per head or one per key dimension. A step follows the formula; longer inputs go in chunks whose
//! tokens are all computed at once. What is left of a token at a later one is e^(sum of decays between them), or the
//! product of their exponentials: at most 1, nothing overflows.

use crate::fast::{LinearScan, Rule};
use crate::{self as mx, Array, Dtype, Scan};

/// What a token takes out of the state before it: r, e `[B, H, L, K]`.
struct Read {
    /// r: where it reads.
    at: Array,
    /// e: the key under which what was read is taken out; k, if `None`, so that v is written as a difference.
    under: Option<Array>,
}

/// Tokens of a chunk, a power of two.
const CHUNK: i32 = 64;
/// Chunks that are prepared at the same time.
const TOGETHER: i32 = 4;

/// [`crate::fast::linear_scan`].
#[track_caller]
pub fn linear_scan(i: &LinearScan<'_>, state: Option<Array>) -> (Array, Array) {
    let h = i.heads();
    let f = |a: &Array| {
        let a = a.astype(Dtype::Float32);
        if a.dim(1) == h { a } else { mx::repeat(&a, h / a.dim(1), 1) }
    };
    let (q, k, mut v, g) = (f(i.q), f(i.k), f(i.v), f(i.g));
    let read = match i.rule {
        Rule::Add { beta } => {
            v = beta.map_or(v.clone(), |beta| v * f(beta));
            None
        }
        Rule::Delta { beta } => {
            let beta = f(beta);
            v = v * &beta;
            Some(Read { at: &k * g.exp() * beta, under: None })
        }
        Rule::Remove { at, under } => Some(Read { at: f(at), under: Some(f(under)) }),
    };
    let [b, _, l, d] = q.dims();
    let mut state = state.map_or_else(|| mx::zeros([b, h, v.dim(-1), d], Dtype::Float32), |s| s.astype(Dtype::Float32));
    if l == 1 {
        return step(&q, &k, &v, &g, read, &state);
    }
    let chunk = CHUNK.min((l as u32).next_power_of_two() as i32);
    let mut out = Vec::new();
    for at in (0..l).step_by((chunk * TOGETHER) as usize) {
        let n = (l - at).min(chunk * TOGETHER);
        let cut = |a: &Array| chunks(&a.slice_axis(2, at..at + n), chunk);
        let read = read.as_ref().map(|r| Read { at: cut(&r.at), under: r.under.as_ref().map(cut) });
        let (o, s) = segment(&cut(&q), &cut(&k), &cut(&v), &cut(&g), read, state);
        out.push(o.slice_axis(2, 0..n));
        state = s;
    }
    (mx::concatenate(&out, 2), state)
}

fn column(a: &Array) -> Array {
    a.swapaxes(-1, -2)
}

/// One token, as the formula reads.
fn step(q: &Array, k: &Array, v: &Array, g: &Array, read: Option<Read>, s: &Array) -> (Array, Array) {
    let mut new = g.exp() * s;
    let mut write = v.clone();
    if let Some(Read { at: r, under }) = read {
        let seen = r.matmul(&column(s));
        match under {
            None => write = v - seen,
            Some(e) => new = new - column(&seen) * e,
        }
    }
    let s = new + column(&write) * k;
    (q.matmul(&column(&s)), s)
}

/// [B, H, L, D] to [B, H, N, C, D], filled up with zeros: a token of zeros changes no state.
pub(super) fn chunks(a: &Array, chunk: i32) -> Array {
    let [b, h, l, d] = a.dims();
    let n = (l + chunk - 1) / chunk;
    let a = match n * chunk - l {
        0 => a.clone(),
        missing => mx::concatenate(&[a.clone(), mx::zeros([b, h, missing, d], a.dtype())], 2),
    };
    a.reshape([b, h, n, chunk, d])
}

/// Some chunks: whatever does not need the state of all of them together, then the state from one to the next.
fn segment(q: &Array, k: &Array, v: &Array, g: &Array, read: Option<Read>, mut s: Array) -> (Array, Array) {
    let fades = Fades::new(g);
    let (from_state, whole) = (q * fades.since(), g.sum_keepdims(3).exp());
    let into_state = |k: &Array| k * fades.until_end();
    let pairs = |x: &Array, y: &Array, own: bool| fades.pairs(x, y, own);
    let (mut inside, mut keys) = (pairs(q, k, true), into_state(k));
    // writes that the state does not change, and writes a - b S that it does
    let (mut fixed, mut answers) = (Some(v.clone()), None);
    if let Some(Read { at: r, under }) = read {
        // what the tokens of a chunk read, u, solves (I + R) u = r e^(decay before) S + what earlier values left there,
        // R of the reads of what earlier tokens took out
        let solve = unit_lower_inverse(&pairs(&r, under.as_ref().unwrap_or(k), false));
        let b = solve.matmul(&(&r * fades.before()));
        match &under {
            // (I + R) (v - u) = v - r e^(decay before) S, as R holds for values, too
            None => (fixed, answers) = (None, Some((solve.matmul(v), b))),
            Some(e) => {
                answers = Some((-solve.matmul(&pairs(&r, k, false).matmul(v)), b));
                inside = mx::concatenate(&[inside, pairs(q, e, true)], 4);
                keys = mx::concatenate(&[keys, into_state(e)], 3);
            }
        }
    }
    let at = |a: &Array, i: i32| a.slice_axis(2, i..i + 1).squeeze(2);
    let mut out = Vec::new();
    for i in 0..q.dim(2) {
        let before = column(&s);
        let answer = answers.as_ref().map(|(a, b)| at(a, i) - at(b, i).matmul(&before));
        let writes: Vec<Array> = fixed.iter().map(|v| at(v, i)).chain(answer).collect();
        let write = mx::concatenate(&writes, 2);
        out.push(at(&from_state, i).matmul(&before) + at(&inside, i).matmul(&write));
        s = at(&whole, i) * s + column(&write).matmul(&at(&keys, i));
    }
    (mx::concatenate(&out, 2), s)
}

/// What decays leave of one token at another, within blocks of 1, 2, 4, .. tokens up to a chunk: [.., C, 1 or K] each.
pub(super) struct Fades {
    g: Array,
    blocks: Vec<Block>,
}

/// Products of decays within blocks of some size.
struct Block {
    /// From the start of a block to each of its tokens, with the token's own and without.
    since: Array,
    before: Array,
    /// From behind each token to the end of its block.
    until_end: Array,
}

impl Fades {
    /// Of log-decays [.., C, 1 or K], C a power of two.
    pub fn new(g: &Array) -> Fades {
        let one = mx::ones_like(g);
        let mut blocks = vec![Block { since: g.exp(), before: one.clone(), until_end: one }];
        let mut n = 1;
        while n < g.dim(-2)
            && let Some(b) = blocks.last()
        {
            // two blocks become one: the second starts after all of the first, the first ends after all of the second
            let pair = |a: &Array| a.unflatten(-2, [-1, 2, n]);
            let nth = |a: &Array, i: i32| a.slice_axis(-3, i..i + 1);
            let since = pair(&b.since);
            let whole = since.slice_axis(-2, n - 1..n);
            let joined = |a: Array, b: Array| mx::concatenate(&[a, b], -3).flatten(-4, -2);
            let after_first = |a: &Array| joined(nth(a, 0), nth(a, 1) * nth(&whole, 0));
            let until_end = pair(&b.until_end);
            let next = Block {
                since: after_first(&since),
                before: after_first(&pair(&b.before)),
                until_end: joined(nth(&until_end, 0) * nth(&whole, 1), nth(&until_end, 1)),
            };
            blocks.push(next);
            n *= 2;
        }
        Fades { g: g.clone(), blocks }
    }

    fn chunk(&self) -> &Block {
        &self.blocks[self.blocks.len() - 1]
    }
    pub fn since(&self) -> &Array {
        &self.chunk().since
    }
    fn before(&self) -> &Array {
        &self.chunk().before
    }
    pub fn until_end(&self) -> &Array {
        &self.chunk().until_end
    }

    /// In each block of `2 n` tokens of something shaped like x [.., 2 n, K]: what is left of the first half's end at the
    /// tokens of the second, and what is left of the tokens of the first at its end. Both are at most 1.
    pub fn across(&self, x: &Array, n: i32, own: bool) -> (Array, Array) {
        let b = &self.blocks[n.trailing_zeros() as usize];
        let mut shape = x.shape().to_vec();
        shape.pop();
        shape.push(self.g.dim(-1));
        let nth = |f: &Array, i: i32| half(&f.reshape(shape.as_slice()), i);
        (nth(if own { &b.since } else { &b.before }, 1), nth(&b.until_end, 0))
    }

    /// sum over K of x_i y_j e^(decay from behind j to i) for j <= i, to before i for j < i without i's `own`: [.., C, C],
    /// 0 elsewhere.
    fn pairs(&self, x: &Array, y: &Array, own: bool) -> Array {
        if self.g.dim(-1) == 1 {
            let never = Array::scalar(f32::NEG_INFINITY, Dtype::Float32);
            let mask = mx::tri(x.dim(-2), None, if own { 0 } else { -1 }, Dtype::Bool);
            let sum = |own: bool| mx::cumsum_with(&self.g, -2, Scan { inclusive: own, ..Scan::default() });
            let decay = mx::where_(mask, sum(own) - column(&sum(true)), &never).exp();
            return x.matmul(&column(y)) * decay;
        }
        let n = x.dim(-2) / 2;
        if n == 0 {
            return if own { (x * y).sum_keepdims(-1) } else { mx::zeros_like(&x.slice_axis(-1, 0..1)) };
        }
        let halves = |a: &Array| a.unflatten(-2, [2, n]);
        let within = self.pairs(&halves(x), &halves(y), own);
        let (to, from) = self.across(x, n, own);
        lower(&within, -3, &(half(x, 1) * to).matmul(&column(&(half(y, 0) * from))))
    }
}

/// The first or second half of the tokens of x [.., C, K].
pub(super) fn half(x: &Array, i: i32) -> Array {
    let n = x.dim(-2) / 2;
    x.slice_axis(-2, i * n..(i + 1) * n)
}

/// The matrix of two diagonal blocks, side by side along `axis`, and the one below the first of them.
fn lower(diagonal: &Array, axis: i32, corner: &Array) -> Array {
    let block = |i: i32| diagonal.slice_axis(axis, i..i + 1).squeeze(axis);
    let top = mx::concatenate(&[block(0), mx::zeros_like(corner)], -1);
    mx::concatenate(&[top, mx::concatenate(&[corner.clone(), block(1)], -1)], -2)
}

/// (I + A)^-1 for a strictly lower A [.., C, C], C a power of two, from the inverses of its diagonal halves. As stable as
/// forward substitution, in log2(C) batched products.
fn unit_lower_inverse(a: &Array) -> Array {
    let (n, h) = (a.dim(-1), a.dim(-1) / 2);
    if n == 1 {
        return mx::ones_like(a);
    }
    let block = |row: i32, column: i32| a.slice_axis(-2, row..row + h).slice_axis(-1, column..column + h);
    let halves = unit_lower_inverse(&mx::stack(&[block(0, 0), block(h, h)], -3));
    let part = |i: i32| halves.slice_axis(-3, i..i + 1).squeeze(-3);
    lower(&halves, -3, &-part(1).matmul(&block(h, 0)).matmul(&part(0)))
}
