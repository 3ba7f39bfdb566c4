//! Slots that forget, each at its own rate, in chunks of tokens.

use super::linear_scan::{Fades, chunks, half};
use crate::{self as mx, Array, Dtype};

/// Tokens of a chunk, and chunks that are prepared at the same time.
const CHUNK: i32 = 64;
const TOGETHER: i32 = 4;

/// [`crate::fast::slot_scan`].
#[track_caller]
pub fn slot_scan(q: &Array, k: &Array, s: &Array, g: &Array, state: Option<Array>) -> (Array, Array) {
    let [q, k, s, g] = [q, k, s, g].map(|a| a.astype(Dtype::Float32));
    let [b, h, l, d] = q.dims();
    let mut state = state.unwrap_or_else(|| mx::zeros([b, h, g.dim(-1), d], Dtype::Float32)).astype(Dtype::Float32);
    let column = |a: &Array| a.swapaxes(-1, -2);
    if l == 1 {
        let state = column(&g.exp()) * state + column(&s).matmul(&k);
        return (q.matmul(&column(&state)), state);
    }
    let c = CHUNK.min((l as u32).next_power_of_two() as i32);
    let mut out = Vec::new();
    for at in (0..l).step_by((c * TOGETHER) as usize) {
        let tokens = (l - at).min(c * TOGETHER);
        let [q, k, s, g] = [&q, &k, &s, &g].map(|a| chunks(&a.slice_axis(2, at..at + tokens), c));
        let fades = Fades::new(&g);
        let inside = found(&q.matmul(&column(&k)), &s, &fades);
        let (fade, written, whole) = (fades.since(), fades.until_end() * &s, column(&g.sum_keepdims(3).exp()));
        let nth = |a: &Array, i: i32| a.slice_axis(2, i..i + 1).squeeze(2);
        let mut parts = Vec::new();
        for i in 0..q.dim(2) {
            parts.push(nth(fade, i) * nth(&q, i).matmul(&column(&state)) + nth(&inside, i));
            state = nth(&whole, i) * state + column(&nth(&written, i)).matmul(&nth(&k, i));
        }
        out.push(mx::concatenate(&parts, 2).slice_axis(2, 0..tokens));
    }
    (mx::concatenate(&out, 2), state)
}

/// What tokens i of a chunk find of tokens j <= i, slot by slot: sum of w_ij s_j e^(decay from behind j to i), for w
/// [.., C, C] and s [.., C, M].
fn found(w: &Array, s: &Array, fades: &Fades) -> Array {
    let n = s.dim(-2) / 2;
    if n == 0 {
        return w * s;
    }
    let block = |i: i32, j: i32| half(w, i).slice_axis(-1, j * n..(j + 1) * n);
    let within = found(&mx::stack(&[block(0, 0), block(1, 1)], -3), &s.unflatten(-2, [2, n]), fades);
    let (to, from) = fades.across(s, n, true);
    let part = |i: i32| within.slice_axis(-3, i..i + 1).squeeze(-3);
    mx::concatenate(&[part(0), part(1) + to * block(1, 0).matmul(&(half(s, 0) * from))], -2)
}
