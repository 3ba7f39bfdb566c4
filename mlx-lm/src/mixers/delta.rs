//! The gated delta rule, one token at a time and in parallel chunks (arXiv:2412.06464, section 3).
//!
//! `S[t] = e^g[t] S[t-1] + beta[t] (v[t] - e^g[t] S[t-1] k[t]) k[t]^T`, `o[t] = S[t] q[t]`, with S `[V, K]` per head.
//! Decays are exponentiated only as differences that are never positive, so that nothing overflows at any length.

use mlx::{self as mx, Array, Dtype};

/// Tokens that are processed together; a power of two.
const CHUNK: i32 = 64;

/// q, k [B, L, H, K], v [B, L, H, V], `log_decay` and `beta` [B, L, H] (log_decay <= 0), state [B, H, V, K] or `None` for
/// zeros. Returns o [B, L, H, V] and the state after the last token, both float32.
pub fn gated_delta(
    q: &Array,
    k: &Array,
    v: &Array,
    log_decay: &Array,
    beta: &Array,
    state: Option<Array>,
) -> (Array, Array) {
    let [b, l, h, kd] = k.dims();
    let vd = v.dim(-1);
    // heads before tokens
    let wide = |a: &Array| a.astype(Dtype::Float32);
    let rows = |a: &Array| wide(a).transpose([0, 2, 1, 3]);
    let (q, k, v) = (rows(q), rows(k), rows(v));
    let (g, beta) = (wide(log_decay).swapaxes(1, 2), wide(beta).swapaxes(1, 2));
    let mut state = state.unwrap_or_else(|| mx::zeros([b, h, vd, kd], Dtype::Float32));
    if l == 1 {
        let (o, state) = step(&q, &k, &v, &g, &beta, &state);
        return (o.transpose([0, 2, 1, 3]), state);
    }
    let mut out = Vec::new();
    for at in (0..l).step_by(CHUNK as usize) {
        let n = CHUNK.min(l - at);
        let cut = |a: &Array| a.slice_axis(2, at..at + n);
        let (o, next) = chunk(&cut(&q), &cut(&k), &cut(&v), &cut(&g), &cut(&beta), &state);
        out.push(o);
        state = next;
    }
    (mx::concatenate(&out, 2).transpose([0, 2, 1, 3]), state)
}

/// One token: q, k [B, H, 1, K], v [B, H, 1, V], g, beta [B, H, 1].
fn step(q: &Array, k: &Array, v: &Array, g: &Array, beta: &Array, state: &Array) -> (Array, Array) {
    let state = state * g.exp().expand_dims(-1);
    let read = state.matmul(&k.swapaxes(-1, -2)).swapaxes(-1, -2);
    let write = (v - read) * beta.expand_dims(-1);
    let state = state + write.swapaxes(-1, -2).matmul(k);
    (q.matmul(&state.swapaxes(-1, -2)), state)
}

/// One chunk of n <= CHUNK tokens: [B, H, n, ..].
fn chunk(q: &Array, k: &Array, v: &Array, g: &Array, beta: &Array, state: &Array) -> (Array, Array) {
    let n = k.dim(2);
    let total = g.cumsum(-1);
    // e^(G[t] - G[s]) for s <= t, else 0: masked before the exponential
    let lower = mx::tri(n, None, 0, Dtype::Bool);
    let gap = total.expand_dims(-1) - total.expand_dims(-2);
    let decay = mx::where_(&lower, mx::where_(&lower, &gap, 0.0).exp(), 0.0);
    let since_start = total.exp().expand_dims(-1);
    let beta = beta.expand_dims(-1);
    let kt = k.swapaxes(-1, -2);
    // (I + A) U = beta (V - e^G K S^T), with A strictly lower triangular
    let strict = mx::tri(n, None, -1, Dtype::Bool);
    let a = mx::where_(&strict, k.matmul(&kt) * &decay * &beta, 0.0);
    let right = (v - &since_start * k.matmul(&state.swapaxes(-1, -2))) * &beta;
    let u = unit_lower_inverse(&a).matmul(&right);
    let o = q.matmul(&state.swapaxes(-1, -2)) * &since_start + (q.matmul(&kt) * &decay).matmul(&u);
    let last = total.slice_axis(-1, n - 1..n);
    let to_end = (&last - &total).exp().expand_dims(-1);
    let next = state * last.exp().expand_dims(-1) + (u * to_end).swapaxes(-1, -2).matmul(k);
    (o, next)
}

/// (I + A)^-1 for a strictly lower triangular A [.., n, n]: inverses of diagonal blocks, joined two by two. As stable as
/// forward substitution, in log2(n) batched products.
pub fn unit_lower_inverse(a: &Array) -> Array {
    let n = a.dim(-1);
    let size = (n.max(1) as u32).next_power_of_two() as i32;
    let mut shape = a.shape().to_vec();
    let r = shape.len();
    let padded = if size == n {
        a.clone()
    } else {
        let mut widths = vec![(0, 0); r];
        (widths[r - 2], widths[r - 1]) = ((0, size - n), (0, size - n));
        mx::pad(a, &widths, 0.0, mx::PadMode::Constant)
    };
    shape.truncate(r - 2);
    let batch = |tail: &[i32]| [&shape[..], tail].concat();
    let mut inverse = mx::ones(batch(&[size, 1, 1]), a.dtype());
    let mut b = 1;
    while b < size {
        let m = size / (2 * b);
        // the block left of each pair's second diagonal block
        let blocks = padded.reshape(batch(&[m, 2, b, m, 2, b]));
        let at = shape.len() as i32;
        let left = blocks.slice_axis(at + 1, 1..2).slice_axis(at + 4, 0..1).reshape(batch(&[m, b, m, b]));
        let diagonal = mx::eye(m, None, 0, a.dtype()).reshape([m, 1, m, 1]);
        let left = (left * diagonal).sum(at + 2);
        let pairs = inverse.reshape(batch(&[m, 2, b, b]));
        let first = pairs.slice_axis(at + 1, 0..1).squeeze(at + 1);
        let second = pairs.slice_axis(at + 1, 1..2).squeeze(at + 1);
        let corner = -second.matmul(&left).matmul(&first);
        let top = mx::concatenate(&[first, mx::zeros_like(&corner)], -1);
        let bottom = mx::concatenate(&[corner, second], -1);
        inverse = mx::concatenate(&[top, bottom], -2);
        b *= 2;
    }
    let inverse = inverse.reshape(batch(&[size, size]));
    if size == n { inverse } else { inverse.slice_axis(-1, 0..n).slice_axis(-2, 0..n) }
}
