//! Recurrences of sequence mixers, and the short convolutions before them.

use super::{View, is_current, ops, takes};
use crate::fast::{LinearScan, Rule, SelectiveScan, ShortConv};
use crate::{Array, Dtype, plain};
use mlx_kernels as k;
use mlx_kernels::View4Mut;

/// Whether kernels take these types and sizes here.
fn fits<'a>(arrays: impl Iterator<Item = &'a Array>) -> bool {
    is_current() && arrays.into_iter().all(|a| takes(a.dtype()) && a.size() > 0)
}

/// A linear recurrence, if a kernel takes it.
pub(crate) fn linear_scan(i: &LinearScan<'_>, state: Option<&Array>) -> Option<(Array, Array)> {
    let arrays: smallvec::SmallVec<[&Array; 7]> = i.arrays().collect();
    let kind = match i.rule {
        Rule::Add { .. } => Kind::Add,
        Rule::Delta { .. } => Kind::Delta,
        Rule::Remove { .. } => Kind::Remove,
    };
    scan(kind, &arrays, i.heads(), state)
}

/// The recurrence of slots over q, k, s, g, if a kernel takes it.
pub(crate) fn slot_scan(arrays: [&Array; 4], state: Option<&Array>) -> Option<(Array, Array)> {
    scan(Kind::Slots, &arrays, arrays[0].dim(1), state)
}

/// A [`Rule`] without its arrays, or that of slots.
#[derive(Clone, Copy)]
enum Kind {
    Add,
    Delta,
    Remove,
    Slots,
}

impl Kind {
    /// Over q, k, v, g and the rule's arrays.
    fn rule<'a>(self, views: &[k::View4<'a>]) -> k::Rule<'a> {
        match self {
            Kind::Add => k::Rule::Add { beta: views.get(4).copied() },
            Kind::Delta => k::Rule::Delta { beta: views[4] },
            Kind::Remove => k::Rule::Remove { at: views[4], under: views[5] },
            Kind::Slots => k::Rule::Slots,
        }
    }

    /// The same from plain ops.
    fn plain(self, a: &[Array], state: Option<Array>) -> (Array, Array) {
        let [q, k, v, g] = [0, 1, 2, 3].map(|i| &a[i]);
        let rule = match self {
            Kind::Add => Rule::Add { beta: a.get(4) },
            Kind::Delta => Rule::Delta { beta: &a[4] },
            Kind::Remove => Rule::Remove { at: &a[4], under: &a[5] },
            Kind::Slots => return plain::slot_scan(q, k, v, g, state),
        };
        plain::linear_scan(&LinearScan { q, k, v, g, rule }, state)
    }
}

fn scan(kind: Kind, arrays: &[&Array], h: i32, state: Option<&Array>) -> Option<(Array, Array)> {
    if !fits(arrays.iter().copied().chain(state)) {
        return None;
    }
    let state = state.map(|s| s.astype(Dtype::Float32));
    let inputs: smallvec::SmallVec<[&Array; 7]> = arrays.iter().copied().chain(&state).collect();
    let ([b, _, l, dk], dv, at) = (inputs[0].dims(), inputs[2].dim(3), arrays.len());
    let kernel = move |i: &[View<'_>], out: &[View<'_>]| {
        let mut stores: [Vec<u8>; 6] = Default::default();
        let mut views = Vec::with_capacity(6);
        for (view, store) in i[..at].iter().zip(&mut stores) {
            views.push(view.view4(store)?);
        }
        let (rule, state) = (kind.rule(&views), i.get(at).map(View::floats).transpose()?);
        let scan = k::LinearScan { q: views[0], k: views[1], v: views[2], g: views[3], rule, state };
        let [b, l, h, dv] = out[0].dims4()?;
        let strides = [l * h * dv, dv, h * dv, 1];
        let o = View4Mut::new(out[0].floats_mut()?, [b, h, l, dv], strides).map_err(|e| e.to_string())?;
        k::linear_scan(&scan, o, out[1].floats_mut()?).map_err(|e| e.to_string())
    };
    let fallback = move |a: &[Array]| {
        let (o, state) = kind.plain(&a[..at], a.get(at).cloned());
        [o.swapaxes(1, 2), state]
    };
    // tokens before heads, as what follows wants them
    let outputs = [(&[b, l, h, dv][..], Dtype::Float32), (&[b, h, dv, dk], Dtype::Float32)];
    let [o, last] = ops(c"linear_scan", &inputs, outputs, (1 << at) - 1, kernel, fallback);
    Some((o.swapaxes(1, 2), last))
}

/// Mamba's recurrence, if a kernel takes it.
pub(crate) fn selective_scan(i: &SelectiveScan<'_>, state: Option<&Array>) -> Option<(Array, Array)> {
    if !fits(i.arrays().into_iter().chain(state)) {
        return None;
    }
    let inputs: smallvec::SmallVec<[&Array; 7]> = i.arrays().into_iter().chain(state).collect();
    let ([b, l, d], n) = (i.u.dims(), i.a.dim(1));
    let dims = [b, l, d, n].map(|x| x as usize);
    let kernel = move |i: &[View<'_>], out: &[View<'_>]| {
        let mut x = Vec::with_capacity(7);
        for view in i {
            x.push(view.floats()?);
        }
        let state = x.get(6).copied();
        let scan = k::SelectiveScan { dims, u: x[0], dt: x[1], a: x[2], b: x[3], c: x[4], skip: x[5], state };
        k::selective_scan(&scan, out[0].floats_mut()?, out[1].floats_mut()?).map_err(|e| e.to_string())
    };
    let fallback = |a: &[Array]| {
        let (y, state) = plain::selective_scan(&SelectiveScan::over(a), a.get(6).cloned());
        [y, state]
    };
    let outputs = [(&[b, l, d][..], Dtype::Float32), (&[b, d, n], Dtype::Float32)];
    let [y, last] = ops(c"selective_scan", &inputs, outputs, 0, kernel, fallback);
    Some((y, last))
}

/// A short convolution of x [B, L, C], if a kernel takes it.
pub(crate) fn short_conv(x: &Array, conv: &ShortConv<'_>, silu: bool) -> Option<(Array, Array)> {
    let ([b, l, c], taps) = (x.dims(), conv.weight.dim(1));
    // one token of 16 bits: the plain form rounds every product, and only that meets the recorded logits of bf16 models
    let rounded = l == 1 && x.dtype() != Dtype::Float32;
    let same = conv.arrays().all(|a| a.dtype() == x.dtype());
    if taps < 2 || rounded || !same || !fits([x].into_iter().chain(conv.arrays())) {
        return None;
    }
    let inputs: smallvec::SmallVec<[&Array; 4]> = [x].into_iter().chain(conv.arrays()).collect();
    let has_bias = conv.bias.is_some();
    let kernel = move |i: &[View<'_>], out: &[View<'_>]| {
        let mut store = Vec::new();
        let bias = if has_bias { Some(i[2].floats()?) } else { None };
        let tail = i.get(2 + has_bias as usize).map(View::floats).transpose()?;
        let conv = k::ShortConv { x: i[0].view3(&mut store)?, weight: i[1].floats()?, bias, tail, silu };
        k::short_conv(&conv, out[0].floats_mut()?, out[1].floats_mut()?).map_err(|e| e.to_string())
    };
    let fallback = move |a: &[Array]| {
        let (bias, tail) = (a.get(2).filter(|_| has_bias), a.get(2 + has_bias as usize));
        let (y, tail) = plain::short_conv(&a[0], &ShortConv { weight: &a[1], bias, tail }, silu);
        [y, tail]
    };
    let outputs = [(&[b, l, c][..], x.dtype()), (&[b, taps - 1, c], x.dtype())];
    let [y, next] = ops(c"short_conv", &inputs, outputs, 1, kernel, fallback);
    Some((y, next))
}
