//! Recurrent layers over [N, L, D] or [L, D].

use super::Module;
use super::module::Param;
use crate::error::refuse;
use crate::{Array, Dtype, addmm, random};

#[track_caller]
fn uniform(hidden: i32, shape: &[i32]) -> Param {
    let scale = 1.0 / f64::from(hidden).sqrt();
    random::uniform(-scale, scale, shape, Dtype::Float32, None).into()
}

/// x W.T + b for all positions at once.
#[track_caller]
fn project(x: &Array, w: &Array, b: &Option<Param>) -> Array {
    match b {
        Some(b) => addmm(b, x, &w.t(), 1.0, 1.0),
        None => x.matmul(&w.t()),
    }
}

/// Runs `step` over the positions of [..., L, D] and stacks what it gives.
#[track_caller]
fn over_time<const N: usize>(x: &Array, mut step: impl FnMut(Array) -> [Array; N]) -> [Array; N] {
    let n = x.dim(-2);
    if n == 0 {
        refuse("recurrent", format!("no positions in shape {:?}", x.shape()));
    }
    let mut all: [Vec<Array>; N] = std::array::from_fn(|_| Vec::new());
    for t in 0..n {
        for (list, a) in all.iter_mut().zip(step(x.slice_axis(-2, t..t + 1).squeeze(-2))) {
            list.push(a);
        }
    }
    all.map(|list| crate::stack(&list, -2))
}

/// h' = tanh(Wxh x + Whh h + b) (`nn.RNN`).
#[derive(Debug, Clone, Module)]
pub struct RNN {
    #[module(name = "Wxh")]
    pub wxh: Param,
    #[module(name = "Whh")]
    pub whh: Param,
    pub bias: Option<Param>,
    #[module(skip)]
    pub nonlinearity: fn(&Array) -> Array,
}

impl RNN {
    /// A new layer with tanh, uniform within 1 / sqrt(hidden).
    #[track_caller]
    pub fn init(input: i32, hidden: i32, bias: bool) -> Self {
        RNN {
            wxh: uniform(hidden, &[hidden, input]),
            whh: uniform(hidden, &[hidden, hidden]),
            bias: bias.then(|| uniform(hidden, &[hidden])),
            nonlinearity: super::tanh,
        }
    }

    /// The hidden state after each position: [..., L, D] -> [..., L, H].
    #[track_caller]
    pub fn forward(&self, x: &Array, hidden: Option<&Array>) -> Array {
        let mut hidden = hidden.cloned();
        let [all] = over_time(&project(x, &self.wxh, &self.bias), |x| {
            let y = match &hidden {
                Some(h) => addmm(&x, h, &self.whh.t(), 1.0, 1.0),
                None => x,
            };
            let h = (self.nonlinearity)(&y);
            hidden = Some(h.clone());
            [h]
        });
        all
    }
}

/// A gated recurrent unit (`nn.GRU`).
#[derive(Debug, Clone, Module)]
pub struct GRU {
    #[module(name = "Wx")]
    pub wx: Param,
    #[module(name = "Wh")]
    pub wh: Param,
    pub b: Option<Param>,
    pub bhn: Option<Param>,
}

impl GRU {
    /// A new layer, uniform within 1 / sqrt(hidden).
    #[track_caller]
    pub fn init(input: i32, hidden: i32, bias: bool) -> Self {
        GRU {
            wx: uniform(hidden, &[3 * hidden, input]),
            wh: uniform(hidden, &[3 * hidden, hidden]),
            b: bias.then(|| uniform(hidden, &[3 * hidden])),
            bhn: bias.then(|| uniform(hidden, &[hidden])),
        }
    }

    /// The hidden state after each position: [..., L, D] -> [..., L, H].
    #[track_caller]
    pub fn forward(&self, x: &Array, hidden: Option<&Array>) -> Array {
        let size = self.wh.dim(-1);
        let mut hidden = hidden.cloned();
        let [all] = over_time(&project(x, &self.wx, &self.b), |x| {
            let (mut rz, n) = (x.slice_axis(-1, 0..2 * size), x.slice_axis(-1, 2 * size..3 * size));
            let mut from_hidden = self.bhn.as_deref().cloned();
            if let Some(h) = &hidden {
                let p = h.matmul(&self.wh.t());
                rz = rz + p.slice_axis(-1, 0..2 * size);
                let p = p.slice_axis(-1, 2 * size..3 * size);
                from_hidden = Some(match &self.bhn {
                    Some(b) => p + b.value(),
                    None => p,
                });
            }
            let gates = rz.sigmoid().split(2, -1);
            let (r, z) = (&gates[0], &gates[1]);
            let n = match from_hidden {
                Some(h) => n + r * h,
                None => n,
            };
            let new = (1 - z) * n.tanh();
            let h = match &hidden {
                Some(h) => new + z * h,
                None => new,
            };
            hidden = Some(h.clone());
            [h]
        });
        all
    }
}

/// A long short-term memory (`nn.LSTM`).
#[derive(Debug, Clone, Module)]
pub struct LSTM {
    #[module(name = "Wx")]
    pub wx: Param,
    #[module(name = "Wh")]
    pub wh: Param,
    pub bias: Option<Param>,
}

impl LSTM {
    /// A new layer, uniform within 1 / sqrt(hidden).
    #[track_caller]
    pub fn init(input: i32, hidden: i32, bias: bool) -> Self {
        LSTM {
            wx: uniform(hidden, &[4 * hidden, input]),
            wh: uniform(hidden, &[4 * hidden, hidden]),
            bias: bias.then(|| uniform(hidden, &[4 * hidden])),
        }
    }

    /// Hidden and cell state after each position: [..., L, D] -> ([..., L, H], [..., L, H]).
    #[track_caller]
    pub fn forward(&self, x: &Array, hidden: Option<&Array>, cell: Option<&Array>) -> (Array, Array) {
        let (mut hidden, mut cell) = (hidden.cloned(), cell.cloned());
        let [h, c] = over_time(&project(x, &self.wx, &self.bias), |x| {
            let gates = match &hidden {
                Some(h) => addmm(&x, h, &self.wh.t(), 1.0, 1.0),
                None => x,
            };
            let gates = gates.split(4, -1);
            let (i, f, g, o) = (gates[0].sigmoid(), gates[1].sigmoid(), gates[2].tanh(), gates[3].sigmoid());
            let c = match &cell {
                Some(c) => f * c + i * g,
                None => i * g,
            };
            let h = o * c.tanh();
            (hidden, cell) = (Some(h.clone()), Some(c.clone()));
            [h, c]
        });
        (h, c)
    }
}
