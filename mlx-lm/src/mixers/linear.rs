//! The linear recurrence that mamba-2 and the delta rules share (gla, retnet and kda fit it, too).
//!
//! `S[t] = S[t-1] diag(e^g[t]) + (v[t] - S[t-1] r[t]) k[t]^T`, `o[t] = S[t] q[t]`, with S `[V, K]` in float32 and g <= 0,
//! one number per head or one per key dimension. A step follows the formula; longer inputs go in chunks whose tokens are
//! all computed at once. Decays are exponentiated as masked differences, which are never positive: nothing overflows.

use mlx::{self as mx, Array, Dtype};

/// Inputs of [`scan`]: q, k `[B, H, L, K]`, v `[B, H, L, V]`, g `[B, H, L, 1 or K]`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub q: &'a Array,
    pub k: &'a Array,
    pub v: &'a Array,
    /// Log-decays, none of them positive.
    pub g: &'a Array,
    /// r `[B, H, L, K]`: what a token reads from the state before it, its value is written as the difference to that.
    pub read: Option<&'a Array>,
}

/// Tokens of a chunk, powers of two: a decay per key dimension needs a [C, C, K] table, one per head a [C, C] one.
const CHUNK: i32 = 64;
const FINE_CHUNK: i32 = 16;
/// Chunks whose tables exist at the same time.
const TOGETHER: i32 = 4;

/// All outputs `[B, H, L, V]` and the state `[B, H, V, K]` after the last token, both float32; no state is zeros.
pub fn scan(i: Inputs<'_>, state: Option<Array>) -> (Array, Array) {
    let f = |a: &Array| a.astype(Dtype::Float32);
    let (q, k, v, g, r) = (f(i.q), f(i.k), f(i.v), f(i.g), i.read.map(f));
    let [b, h, l, d] = q.dims();
    let mut state = state.map_or_else(|| mx::zeros([b, h, v.dim(-1), d], Dtype::Float32), |s| f(&s));
    if l == 1 {
        return step(&q, &k, &v, &g, r.as_ref(), &state);
    }
    let most = if g.dim(-1) == 1 { CHUNK } else { FINE_CHUNK };
    let chunk = most.min((l as u32).next_power_of_two() as i32);
    let mut out = Vec::new();
    for at in (0..l).step_by((chunk * TOGETHER) as usize) {
        let n = (l - at).min(chunk * TOGETHER);
        let cut = |a: &Array| chunks(&a.slice_axis(2, at..at + n), chunk);
        let (o, s) = segment(&cut(&q), &cut(&k), &cut(&v), &cut(&g), r.as_ref().map(cut), state);
        out.push(o.slice_axis(2, 0..n));
        state = s;
    }
    (mx::concatenate(&out, 2), state)
}

/// The gated delta rule (arXiv:2412.06464): `S = e^g S`, then `S += beta (v - S k) k^T`, with beta `[B, H, L, 1]`.
pub fn delta(i: Inputs<'_>, beta: &Array, state: Option<Array>) -> (Array, Array) {
    let beta = beta.astype(Dtype::Float32);
    let read = i.k * i.g.astype(Dtype::Float32).exp() * &beta;
    scan(Inputs { v: &(i.v * beta), read: Some(&read), ..i }, state)
}

fn column(a: &Array) -> Array {
    a.swapaxes(-1, -2)
}

/// One token, as the formula reads.
fn step(q: &Array, k: &Array, v: &Array, g: &Array, r: Option<&Array>, s: &Array) -> (Array, Array) {
    let write = match r {
        Some(r) => v - r.matmul(&column(s)),
        None => v.clone(),
    };
    let s = g.exp() * s + column(&write).matmul(k);
    (q.matmul(&column(&s)), s)
}

/// [B, H, L, D] to [B, H, N, C, D], filled up with zeros: a token of zeros changes no state.
fn chunks(a: &Array, chunk: i32) -> Array {
    let [b, h, l, d] = a.dims();
    let n = (l + chunk - 1) / chunk;
    let a = match n * chunk - l {
        0 => a.clone(),
        missing => mx::concatenate(&[a.clone(), mx::zeros([b, h, missing, d], a.dtype())], 2),
    };
    a.reshape([b, h, n, chunk, d])
}

/// Some chunks: tables of all of them together, then the state from one to the next.
fn segment(q: &Array, k: &Array, v: &Array, g: &Array, r: Option<Array>, mut s: Array) -> (Array, Array) {
    let (n, c) = (q.dim(2), q.dim(3));
    let sum = mx::cumsum(g, 3);
    let last = sum.slice_axis(3, c - 1..c);
    let inside = pairs(q, k, &sum, &sum, &mx::tri(c, None, 0, Dtype::Bool));
    let (from_state, into_state, whole) = (q * sum.exp(), k * (&last - &sum).exp(), last.exp());
    // what each token writes is v, less what it reads: (I + R) w = v - r e^(sum before) S, R of the reads within the chunk
    let reads = r.map(|r| {
        let earlier = &sum - g;
        let within = pairs(&r, k, &earlier, &sum, &mx::tri(c, None, -1, Dtype::Bool));
        (unit_lower_inverse(&within), r * earlier.exp())
    });
    let at = |a: &Array, i: i32| a.slice_axis(2, i..i + 1).squeeze(2);
    let mut out = Vec::new();
    for i in 0..n {
        let before = column(&s);
        let mut write = at(v, i);
        if let Some((solve, read)) = &reads {
            write = at(solve, i).matmul(&(write - at(read, i).matmul(&before)));
        }
        out.push(at(&from_state, i).matmul(&before) + at(&inside, i).matmul(&write));
        s = at(&whole, i) * s + column(&write).matmul(&at(&into_state, i));
    }
    (mx::concatenate(&out, 2), s)
}

/// sum over K of x_i y_j e^(c_i - d_j) where the mask [C, C] allows it, 0 elsewhere: [.., C, C].
fn pairs(x: &Array, y: &Array, c: &Array, d: &Array, mask: &Array) -> Array {
    let never = Array::scalar(f32::NEG_INFINITY, Dtype::Float32);
    if c.dim(-1) == 1 {
        let decay = mx::where_(mask, c - column(d), &never).exp();
        return x.matmul(&column(y)) * decay;
    }
    let difference = c.expand_dims(-2) - d.expand_dims(-3);
    let decay = mx::where_(mask.expand_dims(-1), &difference, &never).exp();
    (decay * x.expand_dims(-2) * y.expand_dims(-3)).sum(-1)
}

/// (I + A)^-1 for a strictly lower A [.., C, C], C a power of two, from the inverses of its diagonal halves. As stable as
/// forward substitution, in log2(C) batched products.
fn unit_lower_inverse(a: &Array) -> Array {
    let (n, h) = (a.dim(-1), a.dim(-1) / 2);
    if n == 1 {
        return mx::ones_like(a);
    }
    let block = |row: i32, column: i32| a.slice_axis(-2, row..row + h).slice_axis(-1, column..column + h);
    let halves = unit_lower_inverse(&mx::stack(&[block(0, 0), block(h, h)], 0));
    let (first, second) = (halves.slice_axis(0, 0..1).squeeze(0), halves.slice_axis(0, 1..2).squeeze(0));
    let corner = -second.matmul(&block(h, 0)).matmul(&first);
    let top = mx::concatenate(&[first, mx::zeros_like(&corner)], -1);
    mx::concatenate(&[top, mx::concatenate(&[corner, second], -1)], -2)
}
