//! An MLP with xIELU: quadratic above zero, an expanded exponential below, both with learned factors (apertus).

use super::Ffn;
use crate::Result;
use crate::blueprint::XieluMlp as Spec;
use crate::parts::Step;
use crate::weights::Leaves;
use mlx::nn::{Leaf, Linear, Module, Param};
use mlx::{self as mx, Array, nn};

/// down(xielu(up(x)))
#[derive(Module)]
pub struct XieluMlp {
    up: Leaf<Linear>,
    down: Leaf<Linear>,
    alpha_p: Leaf<Param>,
    alpha_n: Leaf<Param>,
    beta: Leaf<Param>,
    eps: Leaf<Param>,
}

pub(super) fn build(s: &Spec, leaves: &Leaves) -> Result<XieluMlp> {
    let scalar = |name: &str| leaves.param(name, &[]);
    Ok(XieluMlp {
        up: leaves.linear("up_proj", s.hidden, s.inner, s.bias)?,
        down: leaves.linear("down_proj", s.inner, s.hidden, s.bias)?,
        alpha_p: scalar("act_fn.alpha_p")?,
        alpha_n: scalar("act_fn.alpha_n")?,
        beta: scalar("act_fn.beta")?,
        eps: scalar("act_fn.eps")?,
    })
}

impl Ffn for XieluMlp {
    fn forward(&self, x: &Array, _: &Step) -> Array {
        let x = self.up.forward(x);
        let (beta, eps) = (self.beta.value(), self.eps.value());
        let above = nn::softplus(self.alpha_p.value()) * x.square();
        let alpha_n = beta + nn::softplus(self.alpha_n.value());
        let below = (mx::minimum(&x, eps).expm1() - &x) * alpha_n;
        self.down.forward(&(mx::where_(x.greater(0.0), &above, &below) + beta * &x))
    }
}
