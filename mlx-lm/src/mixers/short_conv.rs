//! The gated short convolution of lfm2: out(C * conv(B * x)).

use super::{Mixer, conv::CausalConv};
use crate::Result;
use crate::blueprint;
use crate::cache::Cache;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::Array;
use mlx::nn::{Leaf, Linear, Module};

/// Convolution between two gates.
#[derive(Module)]
pub struct ShortConv {
    in_proj: Leaf<Linear>,
    conv: Leaf<CausalConv>,
    out_proj: Leaf<Linear>,
}

pub(super) fn build(s: &blueprint::ShortConv, leaves: &Leaves) -> Result<ShortConv> {
    Ok(ShortConv {
        in_proj: leaves.linear("in_proj", s.hidden, 3 * s.hidden, s.bias)?,
        conv: CausalConv::load(leaves, "conv", s.hidden, s.kernel, s.bias)?,
        out_proj: leaves.linear("out_proj", s.hidden, s.hidden, s.bias)?,
    })
}

impl Mixer for ShortConv {
    fn forward(&self, x: &Array, _: &Step, cache: &mut dyn Cache) -> Array {
        let slots = cache.slots();
        let parts = self.in_proj.forward(x).split(3, -1);
        let y = &parts[1] * self.conv.forward(&(&parts[0] * &parts[2]), slots, 0);
        slots.advance(x.dim(1));
        self.out_proj.forward(&y)
    }
}
