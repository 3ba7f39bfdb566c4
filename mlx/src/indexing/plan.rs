//! What an index means for an array of a known shape.

use super::{Index, Indices, Slice};
use crate::Array;
use crate::error::refuse;
use smallvec::SmallVec;
use std::borrow::Cow;

pub(super) type Dims = SmallVec<[i32; 6]>;

/// One item after ellipsis and missing axes have been written out.
#[derive(Debug, Clone)]
pub(super) enum Entry<'a> {
    /// An axis that goes.
    Int,
    /// An axis that stays.
    Slice,
    New,
    Array(Cow<'a, Array>),
}

/// Entries in order (all but `New` take one axis), and the static slice of each axis, in range.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub entries: SmallVec<[Entry<'a>; 6]>,
    pub start: Dims,
    pub stop: Dims,
    pub step: Dims,
    /// Size of each axis after slicing.
    pub sizes: Dims,
    /// Whether the slice is less than the whole array.
    pub sliced: bool,
    pub arrays: usize,
}

/// First position, stop in the form that MLX expects, and number of positions of `s` on an axis of `n`.
pub(super) fn span(s: Slice, n: i32) -> (i32, i32, i32) {
    let wrap = |i: i32| if i < 0 { i.saturating_add(n) } else { i };
    if s.step > 0 {
        let start = s.start.map_or(0, wrap).clamp(0, n);
        let stop = s.stop.map_or(n, wrap).clamp(start, n);
        let count = (stop - start) / s.step + ((stop - start) % s.step != 0) as i32;
        return (start, stop, count);
    }
    let start = s.start.map_or(n - 1, wrap).min(n - 1);
    let stop = s.stop.map_or(-1, wrap).max(-1);
    if start <= stop || start < 0 {
        return (0, 0, 0);
    }
    let (len, by) = ((start - stop) as i64, -(s.step as i64));
    // MLX counts negative stops from the end: -1 - n is one before the first position
    (start, if stop < 0 { -1 - n } else { stop }, ((len + by - 1) / by) as i32)
}

impl<'a> Plan<'a> {
    #[track_caller]
    pub fn new(op: &str, a: &Array, indices: Indices<'a>) -> Self {
        let shape = a.shape();
        let taken = indices.iter().filter(|i| !matches!(i, Index::NewAxis | Index::Ellipsis)).count();
        if taken > shape.len() {
            refuse(op, format!("{taken} indices are too many for shape {shape:?}"));
        }
        let mut plan = Plan {
            entries: SmallVec::new(),
            start: SmallVec::from_elem(0, shape.len()),
            stop: shape.into(),
            step: SmallVec::from_elem(1, shape.len()),
            sizes: shape.into(),
            sliced: false,
            arrays: 0,
        };
        let (mut axis, mut rest) = (0, Some(shape.len() - taken));
        for index in indices {
            match index {
                Index::At(i) => {
                    let n = shape[axis];
                    let at = if i < 0 { i.saturating_add(n) } else { i };
                    if at < 0 || at >= n {
                        refuse(op, format!("index {i} is out of range for axis {axis} of shape {shape:?}"));
                    }
                    plan.set(axis, at, at + 1, 1, 1);
                    plan.entries.push(Entry::Int);
                    axis += 1;
                }
                Index::Slice(s) => {
                    if s.step == 0 {
                        refuse(op, format!("a step of zero on axis {axis} of shape {shape:?}"));
                    }
                    let (start, stop, count) = span(s, shape[axis]);
                    if (count, start) != (shape[axis], 0) {
                        plan.set(axis, start, stop, if count == 0 { 1 } else { s.step }, count);
                    }
                    plan.entries.push(Entry::Slice);
                    axis += 1;
                }
                Index::Ellipsis => match rest.take() {
                    Some(n) => {
                        plan.entries.extend(std::iter::repeat_n(Entry::Slice, n));
                        axis += n;
                    }
                    None => refuse(op, "an index can have one ellipsis only"),
                },
                Index::NewAxis => plan.entries.push(Entry::New),
                Index::Array(i) => {
                    if !i.dtype().is_integer() {
                        refuse(op, format!("index arrays must be integers, not {}", i.dtype()));
                    }
                    if shape[axis] == 0 && i.size() > 0 {
                        refuse(op, format!("cannot index the empty axis {axis} of shape {shape:?}"));
                    }
                    plan.entries.push(Entry::Array(i));
                    plan.arrays += 1;
                    axis += 1;
                }
            }
        }
        plan.entries.extend(std::iter::repeat_n(Entry::Slice, shape.len() - axis));
        plan
    }

    fn set(&mut self, axis: usize, start: i32, stop: i32, step: i32, count: i32) {
        (self.start[axis], self.stop[axis], self.step[axis], self.sizes[axis]) = (start, stop, step, count);
        self.sliced = true;
    }

    /// Axes whose entry is an integer.
    pub fn int_axes(&self) -> Dims {
        let axes = self.entries.iter().filter(|e| !matches!(e, Entry::New)).enumerate();
        axes.filter(|(_, e)| matches!(e, Entry::Int)).map(|(i, _)| i as i32).collect()
    }

    /// The index arrays with their axis among those that integers leave, made safe for it.
    pub fn index_arrays(&self) -> SmallVec<[(i32, Array); 2]> {
        let mut kept = 0;
        let mut found = SmallVec::new();
        let axes = self.entries.iter().filter(|e| !matches!(e, Entry::New));
        for (e, &n) in axes.zip(&self.sizes) {
            if let Entry::Array(i) = e {
                found.push((kept, crate::ops::safe_indices(i, n)));
            }
            kept += !matches!(e, Entry::Int) as i32;
        }
        found
    }

    /// Where the axes of index arrays stand in a result: `None` in front (they are separated), else behind so many
    /// of the entries that stay. `ints` says whether integers count as index arrays, as they do in reads.
    pub fn block(&self, ints: bool) -> Option<usize> {
        let advanced = |e: &Entry| matches!(e, Entry::Array(_)) || ints && matches!(e, Entry::Int);
        let first = self.entries.iter().position(advanced)?;
        let last = self.entries.iter().rposition(advanced)?;
        let apart = self.entries[first..=last].iter().any(|e| matches!(e, Entry::Slice | Entry::New));
        (!apart).then_some(first)
    }
}

/// The order of axes that moves the `len` axes at `from` to `to` (counted without them).
pub(super) fn moved(ndim: usize, from: usize, len: usize, to: usize) -> Dims {
    let mut order: Dims = (0..ndim as i32).filter(|&i| (i as usize) < from || i as usize >= from + len).collect();
    order.insert_from_slice(to, &(from as i32..(from + len) as i32).collect::<Dims>());
    order
}
