//! Several linear layers of few tokens in one launch: narrow projections (the low-rank ones of rwkv-7), each with its own
//! input, activation and bias, cost what one does. On CUDA (`cuda/gemv.cuh`); `None` elsewhere, where models multiply one
//! after the other.

use super::cuda::{self, products};
use super::layers::Columns;
use super::linear::Matrix;
use crate::Array;
use smallvec::SmallVec;

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum After {
    #[default]
    Same,
    Sigmoid,
    Tanh,
    /// max(x, 0)^2
    SquaredRelu,
}

/// act(x W.T + bias), of [`products_fused`].
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// K columns of an array `[B, L, ..]`.
    pub x: Columns<'a>,
    /// x + (before - x) by in place of x: `before` `[B, 1, K]` as wide as the array of x, of one token (L = 1); K numbers.
    pub toward: Option<(&'a Array, &'a Array)>,
    pub weight: Matrix<'a>,
    pub after: After,
}

/// Most products of one launch.
pub(crate) const MOST: usize = 8;

/// Most rows of x that a dense and a packed weight are multiplied with here: MLX takes more dense ones faster.
const ROWS: (i32, i32) = (8, 32);

/// The products `[B, L, N]`, each as columns of an array from the number given on; those with weights of one form, up to
/// 8, take one launch. All have the same B and L.
pub fn products_fused(all: &[Product<'_>]) -> Option<Vec<(Array, i32)>> {
    let mut done: Vec<Option<(Array, i32)>> = vec![None; all.len()];
    while let Some(next) = done.iter().position(Option::is_none) {
        let like = |i: &usize| done[*i].is_none() && all[*i].weight.quant == all[next].weight.quant;
        let group: SmallVec<[usize; MOST]> = (next..all.len()).filter(like).take(MOST).collect();
        let parts: SmallVec<[Product<'_>; MOST]> = group.iter().map(|&i| all[i]).collect();
        let (y, mut at) = (one_launch(&parts, all)?, 0);
        for i in group {
            done[i] = Some((y.clone(), at));
            at += all[i].weight.outputs();
        }
    }
    done.into_iter().collect()
}

/// Some of `all` side by side, `[B, L, sum of N]`, in their order.
fn one_launch(parts: &[Product<'_>], all: &[Product<'_>]) -> Option<Array> {
    let gpu = cuda::current_gpu()?;
    let like = all.first()?.x.x;
    let quant = parts.first()?.weight.quant;
    if like.ndim() != 3 || like.size() == 0 || !cuda::is_half(like.dtype()) {
        return None;
    }
    let (b, l) = (like.dim(0), like.dim(1));
    let rows = b.checked_mul(l)?;
    let same = |a: &Array| a.dtype() == like.dtype();
    let fits = |p: &Product<'_>| {
        let (k, w) = (p.weight.inputs(), &p.weight);
        let toward = p.toward.is_none_or(|(before, by)| {
            l == 1
                && (p.x.at, p.x.x.dim(2)) == (0, k)
                && before.shape() == [b, 1, k]
                && by.size() as i64 == i64::from(k)
                && same(before)
                && same(by)
        });
        toward
            && p.x.fits(like, 1, k)
            && (p.x.at % 8, p.x.x.dim(2) % 8) == (0, 0)
            && w.weight.ndim() == 2
            && w.is_whole()
            && w.bias.is_none_or(|b| b.shape() == [w.outputs()] && same(b))
    };
    let arrays = parts.iter().flat_map(|p| {
        let toward: SmallVec<[&Array; 2]> = p.toward.into_iter().flat_map(|(a, b)| [a, b]).collect();
        toward.into_iter().chain([p.x.x])
    });
    let most = if quant.is_some() { ROWS.1 } else { ROWS.0 };
    let usable = rows <= most
        && parts.iter().all(fits)
        && !arrays.into_iter().any(super::backend::is_traced)
        && !parts.iter().any(|p| p.weight.is_traced());
    usable.then(|| products::products(gpu, parts, [b, l]))?
}

/// The same from plain ops: each product `[B, L, N]`.
#[track_caller]
pub fn product_plain(p: &Product<'_>) -> Array {
    let (k, x) = (p.weight.inputs(), p.x);
    let mut x = x.x.slice_axis(-1, x.at..x.at + k);
    if let Some((before, by)) = p.toward {
        x = &x + (before - &x) * by.reshape([-1]);
    }
    let y = super::linear_plain(&x, &[p.weight], super::Fused::default());
    match p.after {
        After::Same => y,
        After::Sigmoid => y.sigmoid(),
        After::Tanh => y.tanh(),
        After::SquaredRelu => y.maximum(Array::scalar(0.0, y.dtype())).square(),
    }
}
