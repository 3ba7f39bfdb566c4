//! Short causal depthwise convolutions, with the last inputs kept for the next call.

use crate::Result;
use crate::cache::Slots;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Module, Param};
use mlx::{self as mx, Array};

/// A depthwise convolution over time: weight [C, K, 1], bias [C].
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

    /// x [B, L, C] -> [B, L, C]; slot `slot` holds the last K - 1 inputs.
    pub fn forward(&self, x: &Array, slots: &mut Slots, slot: usize) -> Array {
        let [b, l, c] = x.dims();
        let weight = self.weight.value();
        let keep = weight.dim(1) - 1;
        let past = slots.take(slot).unwrap_or_else(|| mx::zeros([b, keep, c], x.dtype()));
        let input = mx::concatenate(&[past.astype(x.dtype()), x.clone()], 1);
        slots.set(slot, mx::contiguous(&input.slice_axis(1, l..l + keep)));
        let y = if l == 1 {
            (&input * weight.squeeze(-1).swapaxes(0, 1)).sum_keepdims(1)
        } else {
            mx::conv1d(&input, weight, mx::Conv { groups: c, ..Default::default() })
        };
        match &self.bias {
            Some(bias) => y + bias.value(),
            None => y,
        }
    }
}
