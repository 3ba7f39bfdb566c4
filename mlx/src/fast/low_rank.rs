//! Linear layers with a low-rank update, x W.T + scale (x a) b, several of one x at once, and their gradients: on CUDA six
//! launches for a layer that is differentiated, where plain ops take some thirty. W has no gradient.

use super::Fused;
use super::backend::is_traced;
use super::cuda::{self, Gpu, low_rank as kernels};
use super::linear::{Matrix, linear, product_back, product_packed};
use crate::{Array, CustomFunction, Dtype, Quant, concatenate};

/// One layer: its weight [N, K], whose bias is left out, and the factors a [K, r], b [r, N].
#[derive(Debug, Clone, Copy)]
pub(crate) struct LowRank<'a> {
    pub weight: Matrix<'a>,
    pub a: &'a Array,
    pub b: &'a Array,
}

/// A weight that closures keep.
#[derive(Debug, Clone)]
struct Weight {
    weight: Array,
    scales: Option<Array>,
    biases: Option<Array>,
    quant: Option<Quant>,
}

impl Weight {
    fn new(m: &Matrix<'_>) -> Self {
        let (scales, biases) = (m.scales.cloned(), m.biases.cloned());
        Weight { weight: m.weight.clone(), scales, biases, quant: m.quant }
    }
    fn matrix(&self) -> Matrix<'_> {
        let (scales, biases) = (self.scales.as_ref(), self.biases.as_ref());
        Matrix { weight: &self.weight, scales, biases, quant: self.quant, bias: None }
    }
}

/// x, a of each layer, b of each.
type Input = (Array, Vec<Array>, Vec<Array>);
/// The product of each layer; x a of all, [.., layers * r].
type Output = (Vec<Array>, Array);

/// Products of x [.., K] with each layer; `None` where a weight is differentiated, too, or ranks differ.
#[track_caller]
pub(crate) fn low_rank_linear(x: &Array, layers: &[LowRank<'_>], scale: f32) -> Option<Vec<Array>> {
    let rank = layers.first()?.b.dim(0);
    let usable = |l: &LowRank<'_>| !Matrix { bias: None, ..l.weight }.is_traced() && l.b.dim(0) == rank;
    if x.ndim() == 0 || !layers.iter().all(usable) {
        return None;
    }
    let (a, b): (Vec<Array>, Vec<Array>) = layers.iter().map(|l| (l.a.clone(), l.b.clone())).unzip();
    let same = layers.iter().all(|l| keeps_type(x.dtype(), &l.weight));
    let update = Update::new(x, &a, &b, scale, same);
    if ![x].into_iter().chain(&a).chain(&b).any(is_traced) {
        let base = layers.iter().map(|l| linear(x, &[Matrix { bias: None, ..l.weight }], Fused::default())).collect();
        let h = update.inward(x, &a);
        return Some(update.outward(base, &h, &b, lead(x)));
    }
    let weights: Vec<Weight> = layers.iter().map(|l| Weight::new(&l.weight)).collect();
    // everything inside has two axes: products of three take more ops
    let products = |x: &Array, weights: &[Weight]| -> Vec<Array> {
        weights.iter().map(|w| product_packed(x, &w.matrix())).collect()
    };
    let (kept, forward) = (weights.clone(), update.clone());
    let f = move |(x, a, b): &Input| -> Output {
        let lead = lead(x);
        let x = rows(x);
        let h = forward.inward(&x, a);
        (forward.outward(products(&x, &kept), &h, b, lead), h)
    };
    let (kept, backward) = (weights.clone(), update.clone());
    let vjp = move |(x, a, b): &Input, (dy, _): &Output, (_, h): &Output| -> Input {
        let dy: Vec<Array> = dy.iter().map(rows).collect();
        let (dh, db) = backward.back_out(&dy, h, b);
        let mut base: Option<Array> = None;
        for (dy, w) in dy.iter().zip(&kept) {
            base = Some(product_back(dy, &w.matrix(), x.dtype(), base.as_ref()));
        }
        let base = base.unwrap_or_else(|| crate::zeros_like(&rows(x)));
        let (dx, da) = backward.back_in(&rows(x), base, &dh, a, x.shape());
        (dx, da, db)
    };
    let jvp = move |(x, a, b): &Input, (dx, da, db): &Input| -> Output {
        let (lead, x, dx) = (lead(x), rows(x), rows(dx));
        let h = update.plain_inward(&x, a);
        let dh = update.plain_inward(&dx, a) + update.plain_inward(&x, da);
        let dy = update.plain_outward(products(&dx, &weights), &dh, b);
        let dy = update.plain_outward(dy, &h, db);
        (shaped(dy, lead), dh)
    };
    Some(CustomFunction::new(f).vjp(vjp).jvp(jvp).call(&(x.clone(), a, b)).0)
}

/// What the factors add, by kernels where they take it.
#[derive(Debug, Clone)]
struct Update {
    kernels: Option<(&'static Gpu, kernels::Shape)>,
    rank: i32,
    scale: f32,
}

/// All axes but the last.
fn lead(x: &Array) -> &[i32] {
    &x.shape()[..x.ndim() - 1]
}

fn rows(x: &Array) -> Array {
    if x.ndim() == 2 { x.clone() } else { x.reshape([-1, x.dim(-1)]) }
}

/// Arrays [.., n] with these axes before the last.
fn shaped(y: Vec<Array>, lead: &[i32]) -> Vec<Array> {
    let one = |y: Array| if self::lead(&y) == lead { y } else { y.reshape([lead, &[y.dim(-1)]].concat()) };
    y.into_iter().map(one).collect()
}

impl Update {
    /// `same`: the products have the type of x.
    fn new(x: &Array, a: &[Array], b: &[Array], scale: f32, same: bool) -> Self {
        let gpu = cuda::current_gpu().filter(|_| same);
        let kernels = gpu.and_then(|gpu| Some((gpu, kernels::Shape::new(x, a, b)?)));
        Update { kernels, rank: b.first().map_or(0, |b| b.dim(0)), scale }
    }

    /// The part of layer i.
    fn part(&self, h: &Array, i: usize, layers: usize) -> Array {
        let at = i as i32 * self.rank;
        if layers == 1 { h.clone() } else { h.slice_axis(-1, at..at + self.rank) }
    }

    /// x a of all layers, [.., layers * r].
    fn inward(&self, x: &Array, a: &[Array]) -> Array {
        let fast = self.kernels.as_ref().and_then(|(gpu, s)| s.inward(gpu, x, a));
        fast.unwrap_or_else(|| self.plain_inward(x, a))
    }

    fn plain_inward(&self, x: &Array, a: &[Array]) -> Array {
        let mut all: Vec<Array> = a.iter().map(|a| x.matmul(a)).collect();
        if all.len() == 1 { all.swap_remove(0) } else { concatenate(&all, -1) }
    }

    /// base + scale * h b of each layer, [lead, n].
    fn outward(&self, base: Vec<Array>, h: &Array, b: &[Array], lead: &[i32]) -> Vec<Array> {
        let fast = self.kernels.as_ref().and_then(|(gpu, s)| s.outward(gpu, &base, h, b, self.scale, lead));
        fast.unwrap_or_else(|| shaped(self.plain_outward(base, h, b), lead))
    }

    fn plain_outward(&self, base: Vec<Array>, h: &Array, b: &[Array]) -> Vec<Array> {
        let one = |(i, (base, b)): (usize, (Array, &Array))| {
            let delta = self.part(h, i, self.layers(h)).matmul(&(b * self.scale));
            &base + delta.astype(base.dtype())
        };
        base.into_iter().zip(b).enumerate().map(one).collect()
    }

    fn layers(&self, h: &Array) -> usize {
        (h.dim(-1) / self.rank.max(1)) as usize
    }

    /// (dh of all layers, db of each) from dy of each.
    fn back_out(&self, dy: &[Array], h: &Array, b: &[Array]) -> (Array, Vec<Array>) {
        if let Some(both) = self.kernels.as_ref().and_then(|(gpu, s)| s.back_out(gpu, dy, h, b, self.scale)) {
            return both;
        }
        let mut dh: Vec<Array> = dy.iter().zip(b).map(|(dy, b)| dy.matmul(&(b * self.scale).t())).collect();
        let db = |(i, (dy, b)): (usize, (&Array, &Array))| {
            let h = self.part(h, i, self.layers(h));
            (h.t().matmul(&dy.astype(h.dtype())) * self.scale).astype(b.dtype())
        };
        let db = dy.iter().zip(b).enumerate().map(db).collect();
        (if dh.len() == 1 { dh.swap_remove(0) } else { concatenate(&dh, -1) }, db)
    }

    /// (base + dh a^T of all layers in this shape, da of each): x is widened for its product alone, so that no float32 copy of it waits
    /// for the backward pass.
    fn back_in(&self, x: &Array, base: Array, dh: &Array, a: &[Array], shape: &[i32]) -> (Array, Vec<Array>) {
        if let Some(both) = self.kernels.as_ref().and_then(|(gpu, s)| s.back_in(gpu, x, &base, dh, a, shape)) {
            return both;
        }
        let (mut dx, mut da) = (base, Vec::with_capacity(a.len()));
        for (i, a) in a.iter().enumerate() {
            let dh = self.part(dh, i, self.layers(dh));
            dx = &dx + dh.matmul(&a.t()).astype(dx.dtype());
            da.push(x.astype(dh.dtype()).t().matmul(&dh).astype(a.dtype()));
        }
        (dx.reshape(shape), da)
    }
}

/// Whether the product of x of this type with a weight has it, too.
fn keeps_type(x: Dtype, w: &Matrix<'_>) -> bool {
    match (w.quant, w.biases) {
        (None, _) => w.weight.dtype() == x,
        (Some(_), Some(b)) => b.dtype() == x,
        (Some(_), None) => true,
    }
}
