//! Reads: a static slice, then at most one gather, then new axes.

use super::plan::{Dims, Entry, Plan, moved, span};
use super::{Index, IntoIndices};
use crate::ffi::{self, VectorArray};
use crate::{Array, Axes};
use mlx_sys as sys;

impl Array {
    /// Reads by index, as `x[...]` in Python; see [`indexing`](crate::indexing).
    ///
    /// ```
    /// use mlx::{self as mx, array, NEW_AXIS, step};
    /// let x = mx::arange(0, 24, 1, None).reshape([2, 3, 4]);
    /// assert_eq!(x.i((1, .., 0)).to_vec::<i32>()?, [12, 16, 20]);
    /// assert_eq!(x.i((.., NEW_AXIS, 1..)).shape(), [2, 1, 2, 4]);
    /// assert_eq!(x.i((0, 0, step(.., -2))).to_vec::<i32>()?, [3, 1]);
    /// assert_eq!(x.i((&array!([0, -1]), &array!([2, 0]))).shape(), [2, 4]);
    /// # Ok::<(), mx::Error>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn i<'a>(&self, index: impl IntoIndices<'a>) -> Array {
        let indices = index.into_indices();
        if let Some(y) = plain(self, &indices) {
            return y;
        }
        if indices.iter().all(|i| matches!(i, Index::Ellipsis)) && indices.len() < 2 {
            return self.clone();
        }
        read(self, &Plan::new("index", self, indices))
    }
}

/// The everyday case without a plan: integers and ranges on the leading axes of an array of few axes, or one index array.
#[track_caller]
#[inline]
fn plain(a: &Array, indices: &[Index<'_>]) -> Option<Array> {
    const MOST: usize = 6;
    let shape = a.shape();
    let rank = shape.len();
    if rank > MOST || indices.len() > rank || indices.is_empty() {
        return None;
    }
    if let [Index::Array(i)] = indices
        && i.dtype().is_integer()
        && shape[0] > 0
    {
        let i = crate::ops::safe_indices(i, shape[0]);
        // SAFETY: valid handles; indices are in range
        return Some(ffi::op("index", &[a, &i], |res, s| unsafe { sys::mlx_take_axis(res, a.raw, i.raw, 0, s) }));
    }
    let (mut start, mut stop, mut step, mut ints) = ([0; MOST], [0; MOST], [1; MOST], [0; MOST]);
    stop[..rank].copy_from_slice(shape);
    let mut gone = 0;
    for (axis, index) in indices.iter().enumerate() {
        let n = shape[axis];
        match index {
            // out of range is for the plan to complain about
            Index::At(i) => {
                let at = if *i < 0 { i.wrapping_add(n) } else { *i };
                if at < 0 || at >= n {
                    return None;
                }
                (start[axis], stop[axis]) = (at, at + 1);
                ints[gone] = axis as i32;
                gone += 1;
            }
            Index::Slice(s) if s.step > 0 => {
                let (from, to, count) = span(*s, n);
                (start[axis], stop[axis], step[axis]) = (from, to, if count == 0 { 1 } else { s.step });
            }
            _ => return None,
        }
    }
    // SAFETY: valid handles; pointers and lengths of live arrays, steps are positive
    let x = ffi::view("index", a, |res, s| unsafe {
        sys::mlx_slice(res, a.raw, start.as_ptr(), rank, stop.as_ptr(), rank, step.as_ptr(), rank, s)
    });
    if gone == 0 {
        return Some(x);
    }
    // SAFETY: valid handles; pointer and length of a live array
    Some(ffi::view("index", &x, |res, s| unsafe { sys::mlx_squeeze_axes(res, x.raw, ints.as_ptr(), gone, s) }))
}

/// The static part: slices applied, integer axes gone.
#[track_caller]
pub(super) fn sliced(a: &Array, plan: &Plan<'_>) -> Array {
    if !plan.sliced {
        return a.clone();
    }
    // SAFETY: valid handles; pointers and lengths of live slices, steps are not 0
    let x = ffi::view("index", a, |res, s| unsafe {
        sys::mlx_slice(
            res,
            a.raw,
            plan.start.as_ptr(),
            plan.start.len(),
            plan.stop.as_ptr(),
            plan.stop.len(),
            plan.step.as_ptr(),
            plan.step.len(),
            s,
        )
    });
    let ints = plan.int_axes();
    if ints.is_empty() { x } else { x.squeeze(Axes::Some(ints)) }
}

#[track_caller]
pub(super) fn read(a: &Array, plan: &Plan<'_>) -> Array {
    let mut x = sliced(a, plan);
    let block = if plan.arrays > 0 { plan.block(true) } else { None };
    let mut width = 0;
    if plan.arrays > 0 {
        let rank = x.ndim();
        let (at, y) = gather(&x, plan);
        width = y.ndim() + plan.arrays - rank;
        let stays = |e: &&Entry| matches!(e, Entry::Slice);
        let to = block.map_or(0, |first| plan.entries[..first].iter().filter(stays).count());
        x = if at == to || width == 0 { y } else { y.transpose(Axes::Some(moved(y.ndim(), at, width, to))) };
    }
    let news = new_axes(plan, block, width);
    if news.is_empty() { x } else { x.expand_dims(Axes::Some(news)) }
}

/// The picked elements, and at which place the axes of the index arrays stand.
#[track_caller]
fn gather(x: &Array, plan: &Plan<'_>) -> (usize, Array) {
    let arrays = plan.index_arrays();
    if let [(axis, i)] = &arrays[..] {
        // SAFETY: valid handles; indices are in range
        let y = ffi::op("index", &[x, i], |res, s| unsafe { sys::mlx_take_axis(res, x.raw, i.raw, *axis, s) });
        return (*axis as usize, y);
    }
    let axes: Dims = arrays.iter().map(|(axis, _)| *axis).collect();
    let mut sizes: Dims = x.shape().into();
    axes.iter().for_each(|&axis| sizes[axis as usize] = 1);
    let list = VectorArray::from_arrays(arrays.iter().map(|(_, i)| i));
    // SAFETY: valid handles; pointers and lengths of live slices; indices are in range
    let y = ffi::op("index", &[x], |res, s| unsafe {
        sys::mlx_gather(res, x.raw, list.raw, axes.as_ptr(), axes.len(), sizes.as_ptr(), sizes.len(), s)
    });
    let width = (y.ndim() - x.ndim()) as i32;
    (0, y.squeeze(Axes::Some(axes.iter().map(|a| a + width).collect())))
}

/// Places of new axes in the result, whose index arrays span `width` axes.
pub(super) fn new_axes(plan: &Plan<'_>, block: Option<usize>, width: usize) -> Dims {
    let mut news = Dims::new();
    let mut at = if plan.arrays > 0 && block.is_none() { width as i32 } else { 0 };
    for (i, e) in plan.entries.iter().enumerate() {
        if block == Some(i) {
            at += width as i32;
        }
        match e {
            Entry::New => {
                news.push(at);
                at += 1;
            }
            Entry::Slice => at += 1,
            Entry::Int | Entry::Array(_) => {}
        }
    }
    news
}
