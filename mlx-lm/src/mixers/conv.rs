//! Short causal convolutions, channel by channel, with the last inputs kept for the next call.

use crate::Result;
use crate::cache::Slots;
use crate::weights::Leaves;
use mlx::fast::ShortConv;
use mlx::nn::{Leaf, Module, Param};
use mlx::{self as mx, Array};

/// `y[t] = sum over j of weight[:, j] * x[t - K + 1 + j]` for x `[B, L, C]`, weight `[C, K, 1]`; what came before x is in
/// `tail` `[B, K - 1, C]`, zeros if `None`. Returns y `[B, L, C]` and the next tail.
pub fn causal_conv(x: &Array, weight: &Array, tail: Option<Array>) -> (Array, Array) {
    let [b, l, c] = x.dims();
    let keep = weight.dim(1) - 1;
    let tail = tail.unwrap_or_else(|| mx::zeros([b, keep, c], x.dtype()));
    let padded = mx::concatenate(&[tail.astype(x.dtype()), x.clone()], 1);
    let y = match l {
        1 => (&padded * weight.squeeze(-1).swapaxes(0, 1)).sum_keepdims(1),
        _ => mx::conv1d(&padded, weight, mx::Conv { groups: c, ..Default::default() }),
    };
    (y, mx::contiguous(&padded.slice_axis(1, l..l + keep)))
}

/// [`causal_conv`] with its parameters: weight `[C, K, 1]`, bias `[C]`.
#[derive(Module)]
pub struct CausalConv {
    weight: Leaf<Param>,
    bias: Option<Leaf<Param>>,
}

impl CausalConv {
    pub fn load(leaves: &Leaves, name: &str, channels: i32, kernel: i32, bias: bool) -> Result<Leaf<CausalConv>> {
        let l = leaves.at(name);
        let conv = CausalConv {
            weight: l.param("weight", &[channels, kernel, 1])?,
            bias: if bias { Some(l.param("bias", &[channels])?) } else { None },
        };
        Ok(Leaf::new(name, conv))
    }

    /// The same for kernels that convolve by themselves.
    pub fn short<'a>(&'a self, tail: Option<&'a Array>) -> ShortConv<'a> {
        ShortConv { weight: self.weight.value(), bias: self.bias.as_ref().map(|b| b.value()), tail }
    }

    /// x `[B, L, C]` to `[B, L, C]`; slot `slot` holds the last K - 1 inputs.
    pub fn forward(&self, x: &Array, slots: &mut Slots, slot: usize) -> Array {
        let (y, tail) = causal_conv(x, self.weight.value(), slots.take(slot));
        slots.set(slot, tail);
        match &self.bias {
            Some(bias) => y + bias.value(),
            None => y,
        }
    }
}
