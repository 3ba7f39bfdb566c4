//! The linear recurrence that mamba-2 and the delta rules share (and gla, retnet, kda and rwkv7 fit).
//!
//! `S[t] = S[t-1] diag(e^g[t]) + (S[t-1] a[t]) b[t]^T + v[t] k[t]^T`, `o[t] = S[t] q[t]`, with S `[V, K]` in float32 and
//! g <= 0, one number per head or one per key dimension. A step follows the formula; longer inputs go in chunks whose
//! tokens are all computed at once. Decays are exponentiated as masked differences, which are never positive: nothing
//! overflows.

use mlx::{self as mx, Array, Dtype};

/// Inputs of [`scan`]: q, k `[B, H, L, K]`, v `[B, H, L, V]`, g `[B, H, L, 1 or K]`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub q: &'a Array,
    pub k: &'a Array,
    pub v: &'a Array,
    /// Log-decays, none of them positive.
    pub g: &'a Array,
    /// a, b `[B, H, L, K]` of the rank-one correction.
    pub correction: Option<(&'a Array, &'a Array)>,
}

/// Tokens of a chunk: a decay per key dimension needs a [C, C, K] table, one per head a [C, C] one.
const CHUNK: i32 = 64;
const FINE_CHUNK: i32 = 16;
/// Chunks whose tables exist at the same time.
const TOGETHER: i32 = 16;

/// All outputs `[B, H, L, V]` and the state `[B, H, V, K]` after the last token, both float32; no state is zeros.
pub fn scan(i: Inputs<'_>, state: Option<Array>) -> (Array, Array) {
    let f = |a: &Array| a.astype(Dtype::Float32);
    let (q, k, v, g) = (f(i.q), f(i.k), f(i.v), f(i.g));
    let [b, h, l, d] = q.dims();
    let correction = i.correction.map(|(a, b)| (f(a), f(b)));
    let mut state = state.map_or_else(|| mx::zeros([b, h, v.dim(-1), d], Dtype::Float32), |s| f(&s));
    if l == 1 {
        return step(&q, &k, &v, &g, correction.as_ref(), state);
    }
    let chunk = if g.dim(-1) == 1 { CHUNK } else { FINE_CHUNK };
    let mut out = Vec::new();
    let mut at = 0;
    while at < l {
        let n = (l - at).min(chunk * TOGETHER);
        let cut = |a: &Array| chunks(&a.slice_axis(2, at..at + n), chunk.min(n));
        let correction = correction.as_ref().map(|(a, b)| (cut(a), cut(b)));
        let (o, s) = segment(&cut(&q), &cut(&k), &cut(&v), &cut(&g), correction.as_ref(), state);
        out.push(o.slice_axis(2, 0..n));
        state = s;
        at += n;
    }
    (mx::concatenate(&out, 2), state)
}

/// The gated delta rule (arXiv:2412.06464): `S = e^g S`, then `S += beta (v - S k) k^T`, with beta `[B, H, L, 1]`.
pub fn delta(i: Inputs<'_>, beta: &Array, state: Option<Array>) -> (Array, Array) {
    let k = i.k.astype(Dtype::Float32);
    let write = &k * beta.astype(Dtype::Float32);
    let read = &k * i.g.astype(Dtype::Float32).exp();
    scan(Inputs { k: &write, correction: Some((&read, &-&write)), ..i }, state)
}

fn column(a: &Array) -> Array {
    a.swapaxes(-1, -2)
}

/// One token, as the formula reads.
fn step(q: &Array, k: &Array, v: &Array, g: &Array, ab: Option<&(Array, Array)>, s: Array) -> (Array, Array) {
    let mut new = g.exp() * &s + column(v).matmul(k);
    if let Some((a, b)) = ab {
        new = new + s.matmul(&column(a)).matmul(b);
    }
    (q.matmul(&column(&new)), new)
}

/// [B, H, L, D] to [B, H, N, C, D], filled up with zeros: a token of zeros changes no state.
fn chunks(a: &Array, chunk: i32) -> Array {
    let [b, h, l, d] = a.dims();
    let n = (l + chunk - 1) / chunk;
    let missing = n * chunk - l;
    let a = match missing {
        0 => a.clone(),
        m => mx::concatenate(&[a.clone(), mx::zeros([b, h, m, d], a.dtype())], 2),
    };
    a.reshape([b, h, n, chunk, d])
}

/// Some chunks: tables of all of them together, then the state from one to the next.
fn segment(q: &Array, k: &Array, v: &Array, g: &Array, ab: Option<&(Array, Array)>, mut s: Array) -> (Array, Array) {
    let (n, c) = (q.dim(2), q.dim(3));
    let sum = mx::cumsum(g, 3);
    let last = sum.slice_axis(3, c - 1..c);
    let (to_here, to_end) = (sum.exp(), (&last - &sum).exp());
    let seen = mx::tri(c, None, 0, Dtype::Bool);
    let before = mx::tri(c, None, -1, Dtype::Bool);
    let inside = pairs(q, k, &sum, &sum, &seen).matmul(v);
    let (from_state, into_state, whole) = (q * &to_here, k * &to_end, last.exp());
    let fix = ab.map(|(a, b)| {
        let earlier = &sum - g;
        let inverse = unit_lower_inverse(&-pairs(a, b, &earlier, &sum, &before));
        let own = inverse.matmul(&pairs(a, k, &earlier, &sum, &before).matmul(v));
        let state = inverse.matmul(&(a * earlier.exp()));
        (own, state, pairs(q, b, &sum, &sum, &seen), b * &to_end)
    });
    let at = |a: &Array, i: i32| a.slice_axis(2, i..i + 1).squeeze(2);
    let mut out = Vec::new();
    for i in 0..n {
        let read = column(&s);
        let mut o = at(&inside, i) + at(&from_state, i).matmul(&read);
        let mut next = at(&whole, i) * &s + column(&at(v, i)).matmul(&at(&into_state, i));
        if let Some((own, state, table, into)) = &fix {
            let u = at(own, i) + at(state, i).matmul(&read);
            o = o + at(table, i).matmul(&u);
            next = next + column(&u).matmul(&at(into, i));
        }
        out.push(o);
        s = next;
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

/// (I + A)^-1 for a strictly lower A [.., C, C], by doubling the solved diagonal blocks: as stable as substitution.
fn unit_lower_inverse(a: &Array) -> Array {
    let c = a.dim(-1);
    let index = mx::arange(0, c, 1, None);
    let (row, column) = (index.expand_dims(1), index.expand_dims(0));
    let mut inverse = mx::eye(c, None, 0, Dtype::Float32);
    let mut size = 1;
    while size < c {
        let block = |i: &Array, size: i32| mx::floor_divide(i, size);
        let same_pair = block(&row, 2 * size).eq(block(&column, 2 * size));
        let below = block(&row, size).gt(block(&column, size)).logical_and(&same_pair);
        let corner = mx::where_(&below, a, 0.0f32);
        inverse = &inverse - inverse.matmul(&corner).matmul(&inverse);
        size *= 2;
    }
    inverse
}
