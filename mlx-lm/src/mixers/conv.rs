//! Short causal convolutions, channel by channel, with the last inputs kept for the next call.

use crate::Result;
use crate::cache::Slots;
use crate::weights::Leaves;
use mlx::Array;
use mlx::fast::{self, ShortConv};
use mlx::nn::{Leaf, Module, Param};

/// A convolution's parameters: weight `[C, K, 1]`, bias `[C]`.
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
        self.run(x, slots, slot, false)
    }

    /// As [`forward`](Self::forward), with SiLU behind it.
    pub fn forward_silu(&self, x: &Array, slots: &mut Slots, slot: usize) -> Array {
        self.run(x, slots, slot, true)
    }

    fn run(&self, x: &Array, slots: &mut Slots, slot: usize, silu: bool) -> Array {
        let tail = slots.take(slot);
        let (y, tail) = fast::short_conv(x, &self.short(tail.as_ref()), silu);
        slots.set(slot, tail);
        y
    }
}
