//! The element-wise recurrence of mamba and of real-gated linear units.

use crate::{self as mx, Array};

/// Tokens that go one after the other, in all blocks of an input at the same time.
const BLOCK: i32 = 8;

/// `h[t] = decay[t] h[t-1] + input[t]` for all t: [B, L, ..] from h before the first token [B, ..]; decays are at most 1,
/// so that nothing overflows.
///
/// Blocks are run from zero side by side; the states between them follow the same recurrence, a block to a token.
pub fn states(decay: &Array, input: &Array, before: &Array) -> Array {
    let l = input.dim(1);
    let n = (l + BLOCK - 1) / BLOCK;
    let at = |a: &Array, axis: i32, i: i32| a.slice_axis(axis, i..i + 1);
    if n == 1 {
        return in_order(decay, input, before.expand_dims(1), 1);
    }
    let blocks = |a: &Array, fill: f32| {
        let mut shape = a.shape().to_vec();
        shape[1] = n * BLOCK - l;
        let padded = match shape[1] {
            0 => a.clone(),
            _ => mx::concatenate(&[a.clone(), mx::full(shape, fill, Some(a.dtype()))], 1),
        };
        padded.unflatten(1, [n, BLOCK])
    };
    let (decay, input) = (blocks(decay, 1.0), blocks(input, 0.0));
    let alone = in_order(&decay, &input, mx::zeros_like(&at(&input, 2, 0)), 2);
    let decay = mx::cumprod(&decay, 2);
    let last = |a: &Array| at(a, 2, BLOCK - 1).squeeze(2);
    let ends = states(&last(&decay), &last(&alone), before);
    let starts = mx::concatenate(&[before.expand_dims(1), ends.slice_axis(1, 0..n - 1)], 1);
    (alone + decay * starts.expand_dims(2)).flatten(1, 2).slice_axis(1, 0..l)
}

/// The recurrence along `axis`, step by step.
fn in_order(decay: &Array, input: &Array, mut h: Array, axis: i32) -> Array {
    let mut all = Vec::new();
    for i in 0..input.dim(axis) {
        h = decay.slice_axis(axis, i..i + 1) * h + input.slice_axis(axis, i..i + 1);
        all.push(h.clone());
    }
    mx::concatenate(&all, axis)
}
