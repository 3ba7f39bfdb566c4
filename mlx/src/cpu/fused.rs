//! The ops of a decode step: linear layers with what surrounds them, attention with its cache, rows of an embedding table.
//!
//! They have no plain form of their own: `fast` composes it where a transform watches.

use super::products::packed;
use super::{View, op_alone, takes, takes_with};
use crate::fast::{DecodeAttention, Layer, Matrix, Place};
use crate::{Array, Dtype, Quant};
use mlx_kernels as k;
use smallvec::SmallVec;

/// Which inputs belong to one matrix.
#[derive(Clone, Copy)]
struct Part {
    quant: Option<Quant>,
    offsets: bool,
    bias: bool,
}

impl Part {
    fn of(w: &Matrix<'_>) -> Part {
        Part { quant: w.quant, offsets: w.biases.is_some(), bias: w.bias.is_some() }
    }
    fn arrays<'a>(w: &Matrix<'a>) -> impl Iterator<Item = &'a Array> {
        [Some(w.weight), w.scales, w.biases, w.bias].into_iter().flatten()
    }
    /// The matrix in inputs `at..`, and where the next one starts.
    fn read<'a>(self, i: &[View<'a>], at: usize) -> Result<(k::Matrix<'a>, Option<k::Floats<'a>>, usize), String> {
        let (w, mut next) = match self.quant {
            Some(q) => (packed(i, at, q)?, at + 2 + self.offsets as usize),
            None => {
                let &[n, k] = i[at].shape() else { return Err("a weight has two axes".into()) };
                (k::Matrix::dense(i[at].floats()?, n as usize, k as usize).map_err(|e| e.to_string())?, at + 1)
            }
        };
        let bias = if self.bias { Some(i[next].floats()?) } else { None };
        next += self.bias as usize;
        Ok((w, bias, next))
    }
}

/// Which inputs belong to one layer, in this order: norm, residual, matrices.
struct Plan {
    parts: SmallVec<[Part; 4]>,
    eps: Option<f32>,
    residual: bool,
    gate: Option<k::Gate>,
}

type Inputs<'a> = SmallVec<[&'a Array; 24]>;

impl Plan {
    fn of(l: &Layer<'_>) -> Plan {
        let f = l.around;
        Plan {
            parts: l.parts.iter().map(Part::of).collect(),
            eps: f.norm.map(|n| n.1),
            residual: f.residual.is_some(),
            gate: f.gate.map(|g| g.kernel()),
        }
    }
    fn push<'a>(inputs: &mut Inputs<'a>, l: &Layer<'a>) {
        inputs.extend(l.around.norm.map(|n| n.0));
        inputs.extend(l.around.residual);
        l.parts.iter().for_each(|w| inputs.extend(Part::arrays(w)));
    }
    /// The layer of m rows of x, its inputs from `at` on, which moves behind them.
    fn run(
        &self,
        i: &[View<'_>],
        at: &mut usize,
        x: k::Floats<'_>,
        m: usize,
        out: k::FloatsMut<'_>,
    ) -> Result<(), String> {
        let mut next = |there: bool| {
            *at += there as usize;
            if there { i[*at - 1].floats().map(Some) } else { Ok(None) }
        };
        let norm = next(self.eps.is_some())?.zip(self.eps);
        let residual = next(self.residual)?;
        let mut parts: SmallVec<[(k::Matrix<'_>, Option<k::Floats<'_>>); 4]> = SmallVec::new();
        for p in &self.parts {
            let (w, bias, after) = p.read(i, *at)?;
            parts.push((w, bias));
            *at = after;
        }
        let call = k::Linear { x, m, norm, parts: &parts, gate: self.gate, residual };
        k::linear(&call, out).map_err(|e| e.to_string())
    }
}

/// Rows of an operand.
fn rows(x: &View<'_>) -> usize {
    x.size() / x.shape().last().map_or(1, |&k| k.max(1) as usize)
}

/// [`linear`](crate::fast::linear) of few rows, and perhaps a second one of its result, with a result of this shape and the
/// type of x. All shapes and types were checked.
#[track_caller]
pub(crate) fn fused_linear(x: &Array, first: &Layer<'_>, second: Option<&Layer<'_>>, shape: &[i32]) -> Array {
    let mut inputs = Inputs::new();
    inputs.push(x);
    for l in std::iter::once(first).chain(second) {
        Plan::push(&mut inputs, l);
    }
    let width = second.and_then(|s| s.parts.first()).map_or(0, |w| w.inputs() as usize);
    let (first, second) = (Plan::of(first), second.map(Plan::of));
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        let (m, mut at) = (rows(&i[0]), 1);
        let (x, out) = (i[0].floats()?, o[0].floats_mut()?);
        let Some(second) = &second else { return first.run(i, &mut at, x, m, out) };
        let mut between = k::Between::new(m * width, x.dtype());
        first.run(i, &mut at, x, m, between.floats_mut())?;
        second.run(i, &mut at, between.floats(), m, out)
    };
    op_alone(c"linear", &inputs, (shape, x.dtype()), 0, kernel)
}

/// Rows of a table in this type: ids (uint32, clipped) [...] -> [..., K].
#[track_caller]
pub(crate) fn embed(ids: &Array, table: &Matrix<'_>, dtype: Dtype) -> Array {
    let mut inputs: SmallVec<[&Array; 4]> = SmallVec::new();
    inputs.push(ids);
    inputs.extend(Part::arrays(table));
    let mut shape: SmallVec<[i32; 5]> = ids.shape().into();
    shape.push(table.inputs());
    let part = Part::of(table);
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        let (w, ..) = part.read(i, 1)?;
        let last = (w.rows() as u32).saturating_sub(1);
        let ids: SmallVec<[u32; 8]> = i[0].indices().into_iter().map(|id| id.min(last)).collect();
        k::embed(&w, &ids, o[0].floats_mut()?).map_err(|e| e.to_string())
    };
    op_alone(c"embed", &inputs, (&shape, dtype), 0, kernel)
}

/// Whether [`attend`] computes in this type with these operands.
pub(crate) fn is_attendable(dtype: Dtype, cache: [&Array; 2], a: &DecodeAttention<'_>) -> bool {
    takes(dtype)
        && cache.iter().all(|c| c.dtype() == dtype)
        && a.qk_norm.is_none_or(|(q, k, _)| takes_with(dtype, q.dtype()) && takes_with(dtype, k.dtype()))
        && a.sinks.is_none_or(|s| takes(s.dtype()))
}

fn floats<'a>(v: Option<&View<'a>>) -> Result<Option<k::Floats<'a>>, String> {
    v.map(View::floats).transpose()
}

/// What a step of attention takes besides its numbers, in this order.
struct Step {
    rotation: Option<(bool, f32)>,
    eps: Option<f32>,
    sinks: bool,
    starts: bool,
    heads: [usize; 3],
    batch: usize,
    capacity: usize,
    scale: f32,
    softcap: Option<f32>,
    window: Option<usize>,
    numbers: [i32; 3],
}

impl Step {
    fn of(keys: &Array, place: Place<'_>, a: &DecodeAttention<'_>) -> Step {
        Step {
            rotation: a.rotation.map(|r| (r.traditional, r.feature_scale)),
            eps: a.qk_norm.map(|n| n.2),
            sinks: a.sinks.is_some(),
            starts: matches!(place, Place::Padded(..)),
            heads: [a.heads, a.kv_heads, a.head_dim].map(|n| n as usize),
            batch: keys.dim(0) as usize,
            capacity: keys.dim(2) as usize,
            scale: a.scale,
            softcap: a.softcap,
            window: a.window.map(|w| w.max(0) as usize),
            numbers: place.numbers(),
        }
    }
    fn push<'a>(inputs: &mut Inputs<'a>, cache: [&'a Array; 2], place: Place<'a>, a: &DecodeAttention<'a>) {
        inputs.extend(cache);
        let starts = match place {
            Place::Padded(_, starts) => Some(starts),
            _ => None,
        };
        let norms = [a.qk_norm.map(|n| n.0), a.qk_norm.map(|n| n.1)];
        inputs.extend([a.rotation.map(|r| r.radians), norms[0], norms[1], a.sinks, starts].into_iter().flatten());
    }
    /// Elements of the projections, and of the result.
    fn widths(&self) -> [usize; 2] {
        let [h, hk, d] = self.heads;
        [(h + 2 * hk) * d, h * d].map(|n| n * self.batch)
    }
    /// # Safety
    /// Nobody else uses the caches meanwhile.
    unsafe fn run(
        &self,
        i: &[View<'_>],
        at: &mut usize,
        qkv: k::Floats<'_>,
        out: k::FloatsMut<'_>,
    ) -> Result<(), String> {
        // SAFETY: the caller's word
        let (keys, values) = unsafe { (i[*at].written_in_place()?, i[*at + 1].written_in_place()?) };
        *at += 2;
        let mut next = |there: bool| {
            *at += there as usize;
            there.then(|| &i[*at - 1])
        };
        let rotation = match (floats(next(self.rotation.is_some()))?, self.rotation) {
            (Some(radians), Some((traditional, feature_scale))) => {
                Some(k::Rotation { radians, traditional, feature_scale })
            }
            _ => None,
        };
        let norms = [floats(next(self.eps.is_some()))?, floats(next(self.eps.is_some()))?];
        let qk_norm = match (norms, self.eps) {
            ([Some(q), Some(k)], Some(eps)) => Some((q, k, eps)),
            _ => None,
        };
        let sinks = floats(next(self.sinks))?;
        let starts: Option<SmallVec<[i32; 16]>> =
            next(self.starts).map(|s| s.indices().into_iter().take(self.batch).map(|n| n as i32).collect());
        let [heads, kv_heads, head_dim] = self.heads;
        let [slot, last, position] = self.numbers;
        let call = k::DecodeStep {
            qkv,
            batch: self.batch,
            heads,
            kv_heads,
            head_dim,
            capacity: self.capacity,
            scale: self.scale,
            rotation,
            qk_norm,
            window: self.window,
            softcap: self.softcap,
            sinks,
            slot: slot as usize,
            last: last as usize,
            position,
            starts: starts.as_deref(),
        };
        k::decode_step(&call, keys, values, out).map_err(|e| e.to_string())
    }
}

/// The attention of one new token per row; writes both caches in place.
///
/// The caller owns them, has checked all shapes and types, and keeps the result until readers may follow.
#[track_caller]
pub(crate) fn attend(qkv: &Array, cache: [&Array; 2], place: Place<'_>, a: &DecodeAttention<'_>) -> Array {
    let mut inputs = Inputs::new();
    inputs.push(qkv);
    Step::push(&mut inputs, cache, place, a);
    let step = Step::of(cache[0], place, a);
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        // SAFETY: `KvBuffers` alone holds the caches, and reads them after this op only
        unsafe { step.run(i, &mut 1, i[0].floats()?, o[0].floats_mut()?) }
    };
    let mut shape: SmallVec<[i32; 5]> = qkv.shape().into();
    if let Some(n) = shape.last_mut() {
        *n = a.heads * a.head_dim;
    }
    // a copy of a cache would be written in its place: taken as they lie
    op_alone(c"decode_attention", &inputs, (&shape, qkv.dtype()), 0b110, kernel)
}

/// As [`attend`] between two layers: projections of x before, the output layer after, with a result of this shape.
#[track_caller]
pub(crate) fn attend_between(
    x: &Array,
    [before, after]: [&Layer<'_>; 2],
    cache: [&Array; 2],
    place: Place<'_>,
    a: &DecodeAttention<'_>,
    shape: &[i32],
) -> Array {
    let mut inputs = Inputs::new();
    inputs.push(x);
    Plan::push(&mut inputs, before);
    let caches = 0b11 << inputs.len();
    Step::push(&mut inputs, cache, place, a);
    Plan::push(&mut inputs, after);
    let step = Step::of(cache[0], place, a);
    let (before, after) = (Plan::of(before), Plan::of(after));
    let kernel = move |i: &[View<'_>], o: &[View<'_>]| {
        let (m, mut at) = (rows(&i[0]), 1);
        let x = i[0].floats()?;
        let [mut qkv, mut out] = step.widths().map(|n| k::Between::new(n, x.dtype()));
        before.run(i, &mut at, x, m, qkv.floats_mut())?;
        // SAFETY: as in `attend`
        unsafe { step.run(i, &mut at, qkv.floats(), out.floats_mut())? };
        after.run(i, &mut at, out.floats(), m, o[0].floats_mut()?)
    };
    op_alone(c"decode_attention", &inputs, (shape, x.dtype()), caches, kernel)
}
