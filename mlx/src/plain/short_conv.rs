//! Short causal convolutions, channel by channel.

use crate::fast::ShortConv;
use crate::{self as mx, Array};

/// [`crate::fast::short_conv`].
#[track_caller]
pub fn short_conv(x: &Array, conv: &ShortConv<'_>, silu: bool) -> (Array, Array) {
    let ([b, l, c], keep) = (x.dims(), conv.weight.dim(1) - 1);
    let tail = conv.tail.map_or_else(|| mx::zeros([b, keep, c], x.dtype()), |t| t.astype(x.dtype()));
    let padded = mx::concatenate(&[&tail, x], 1);
    let y = match l {
        1 => (&padded * conv.weight.squeeze(-1).swapaxes(0, 1)).sum_keepdims(1),
        _ => mx::conv1d(&padded, conv.weight, mx::Conv { groups: c, ..Default::default() }),
    };
    let y = conv.bias.map_or(y.clone(), |bias| y + bias);
    let y = if silu { &y * y.sigmoid() } else { y };
    (y, mx::contiguous(&padded.slice_axis(1, l..l + keep)))
}
