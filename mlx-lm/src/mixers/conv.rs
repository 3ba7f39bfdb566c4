//! Short causal convolutions, channel by channel.

use mlx::{self as mx, Array};

/// `y[t] = sum over j of weight[:, j] * x[t - K + 1 + j]` for x `[B, L, C]`, weight `[C, K, 1]`; what came before x is in
/// `tail` [B, K - 1, C], zeros if `None`. Returns y [B, L, C] and the next tail.
pub fn causal_conv(x: &Array, weight: &Array, tail: Option<Array>) -> (Array, Array) {
    let [b, l, c] = x.dims();
    let k = weight.dim(1);
    let tail = tail.unwrap_or_else(|| mx::zeros([b, k - 1, c], x.dtype()));
    let padded = mx::concatenate(&[tail, x.clone()], 1);
    let taps = weight.reshape([c, k]).t();
    let mut y = padded.slice_axis(1, 0..l) * taps.slice_axis(0, 0..1);
    for j in 1..k {
        y = y + padded.slice_axis(1, j..j + l) * taps.slice_axis(0, j..j + 1);
    }
    (y, mx::contiguous(&padded.slice_axis(1, l..l + k - 1)))
}
