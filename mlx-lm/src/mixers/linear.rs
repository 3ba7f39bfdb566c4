//! The linear recurrence that mamba-2, the delta rules and rwkv7 share (gla, retnet and kda fit it, too).
//!
//! `S[t] = S[t-1] diag(e^g[t]) + v[t] k[t]^T - (S[t-1] r[t]) e[t]^T`, `o[t] = S[t] q[t]`, with S `[V, K]` in float32 and
//! g <= 0, one number per head or one per key dimension. A step follows the formula; longer inputs go in chunks whose
//! tokens are all computed at once. Only sums of decays between two tokens are exponentiated, which are never positive:
//! nothing overflows.

use mlx::{self as mx, Array, Dtype, Scan};

/// Inputs of [`scan`]: q, k `[B, H, L, K]`, v `[B, H, L, V]`, g `[B, H, L, 1 or K]`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub q: &'a Array,
    pub k: &'a Array,
    pub v: &'a Array,
    /// Log-decays, none of them positive.
    pub g: &'a Array,
    pub read: Option<Read<'a>>,
}

/// What a token takes out of the state before it: r, e `[B, H, L, K]`.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// r: where it reads.
    pub at: &'a Array,
    /// e: the key under which what was read is taken out; k, if `None`, so that v is written as a difference.
    pub under: Option<&'a Array>,
}

/// Tokens of a chunk, a power of two.
const CHUNK: i32 = 64;
/// Tokens of which a decay per key dimension gets a table [TABLE, TABLE, K].
const TABLE: i32 = 8;
/// Chunks that are prepared at the same time.
const TOGETHER: i32 = 4;

/// All outputs `[B, H, L, V]` and the state `[B, H, V, K]` after the last token, both float32; no state is zeros.
pub fn scan(i: Inputs<'_>, state: Option<Array>) -> (Array, Array) {
    let f = |a: &Array| a.astype(Dtype::Float32);
    let (q, k, v, g) = (f(i.q), f(i.k), f(i.v), f(i.g));
    let read = i.read.map(|r| (f(r.at), r.under.map(f)));
    let [b, h, l, d] = q.dims();
    let mut state = state.map_or_else(|| mx::zeros([b, h, v.dim(-1), d], Dtype::Float32), |s| f(&s));
    if l == 1 {
        return step(&q, &k, &v, &g, read, &state);
    }
    let chunk = CHUNK.min((l as u32).next_power_of_two() as i32);
    let mut out = Vec::new();
    for at in (0..l).step_by((chunk * TOGETHER) as usize) {
        let n = (l - at).min(chunk * TOGETHER);
        let cut = |a: &Array| chunks(&a.slice_axis(2, at..at + n), chunk);
        let read = read.as_ref().map(|(r, e)| (cut(r), e.as_ref().map(cut)));
        let (o, s) = segment(&cut(&q), &cut(&k), &cut(&v), &cut(&g), read, state);
        out.push(o.slice_axis(2, 0..n));
        state = s;
    }
    (mx::concatenate(&out, 2), state)
}

/// The gated delta rule (arXiv:2412.06464): `S = e^g S`, then `S += beta (v - S k) k^T`, with beta `[B, H, L, 1]`.
pub fn delta(i: Inputs<'_>, beta: &Array, state: Option<Array>) -> (Array, Array) {
    let beta = beta.astype(Dtype::Float32);
    let at = i.k * i.g.astype(Dtype::Float32).exp() * &beta;
    scan(Inputs { v: &(i.v * beta), read: Some(Read { at: &at, under: None }), ..i }, state)
}

fn column(a: &Array) -> Array {
    a.swapaxes(-1, -2)
}

/// r and e of [`Read`] in float32.
type Reads = Option<(Array, Option<Array>)>;

/// One token, as the formula reads.
fn step(q: &Array, k: &Array, v: &Array, g: &Array, read: Reads, s: &Array) -> (Array, Array) {
    let mut new = g.exp() * s;
    let mut write = v.clone();
    if let Some((r, under)) = read {
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
fn segment(q: &Array, k: &Array, v: &Array, g: &Array, read: Reads, mut s: Array) -> (Array, Array) {
    let (from_state, whole) = (q * since(g, true).exp(), g.sum_keepdims(3).exp());
    let into_state = |k: &Array| k * until_end(g).exp();
    let (mut inside, mut keys) = (pairs(q, k, g, true), into_state(k));
    // writes that the state does not change, and writes a - b S that it does
    let (mut fixed, mut answers) = (Some(v.clone()), None);
    if let Some((r, under)) = read {
        // what the tokens of a chunk read, u, solves (I + R) u = r e^(decay before) S + what earlier values left there,
        // R of the reads of what earlier tokens took out
        let solve = unit_lower_inverse(&pairs(&r, under.as_ref().unwrap_or(k), g, false));
        let b = solve.matmul(&(&r * since(g, false).exp()));
        match &under {
            // (I + R) (v - u) = v - r e^(decay before) S, as R holds for values, too
            None => (fixed, answers) = (None, Some((solve.matmul(v), b))),
            Some(e) => {
                answers = Some((-solve.matmul(&pairs(&r, k, g, false).matmul(v)), b));
                inside = mx::concatenate(&[inside, pairs(q, e, g, true)], 4);
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

/// Log-decay from the start of a chunk to each of its tokens, with or without the token's own: [.., C, D].
fn since(g: &Array, own: bool) -> Array {
    mx::cumsum_with(g, -2, Scan { inclusive: own, ..Scan::default() })
}

/// Log-decay from behind each token to the end of its chunk.
fn until_end(g: &Array) -> Array {
    mx::cumsum_with(g, -2, Scan { reverse: true, inclusive: false, dtype: None })
}

/// sum over K of x_i y_j e^(decay from behind j to i) for j <= i, to before i for j < i without i's `own`: [.., C, C],
/// 0 elsewhere.
fn pairs(x: &Array, y: &Array, g: &Array, own: bool) -> Array {
    let n = x.dim(-2);
    if g.dim(-1) > 1 && n > TABLE {
        // two halves alike; from one to the other, both factors of e^(to the border) e^(from the border) are at most 1
        let half = |a: &Array, i: i32| a.slice_axis(-2, i * n / 2..(i + 1) * n / 2);
        let halves = |a: &Array| a.unflatten(-2, [2, n / 2]);
        let within = pairs(&halves(x), &halves(y), &halves(g), own);
        let late = half(x, 1) * since(&half(g, 1), own).exp();
        let early = half(y, 0) * until_end(&half(g, 0)).exp();
        return lower(&within, -3, &late.matmul(&column(&early)));
    }
    let never = Array::scalar(f32::NEG_INFINITY, Dtype::Float32);
    let mask = mx::tri(n, None, if own { 0 } else { -1 }, Dtype::Bool);
    let (to, from) = (since(g, own), since(g, true));
    if g.dim(-1) == 1 {
        let decay = mx::where_(mask, to - column(&from), &never).exp();
        return x.matmul(&column(y)) * decay;
    }
    let difference = to.expand_dims(-2) - from.expand_dims(-3);
    let decay = mx::where_(mask.expand_dims(-1), &difference, &never).exp();
    (decay * x.expand_dims(-2) * y.expand_dims(-3)).sum(-1)
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
