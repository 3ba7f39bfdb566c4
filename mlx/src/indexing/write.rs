//! Assignment and accumulation: a slice update for static indices, a scatter for index arrays, a masked scatter.

use super::plan::{Dims, Entry, Plan, moved};
use super::read::{new_axes, sliced};
use super::{Index, Indices, IntoIndices};
use crate::dtype::Dtype;
use crate::error::refuse;
use crate::ffi::{self, VectorArray};
use crate::scalar::{Arg, Operand, weak};
use crate::{Array, Axes};
use mlx_sys as sys;

/// How new values meet old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Set,
    Add,
    Prod,
    Max,
    Min,
}

impl Array {
    /// Assigns by index, as `x[...] = value` in Python; see [`indexing`](crate::indexing).
    ///
    /// The value is broadcast and takes the array's dtype. A bool array of the shape of the leading axes selects the
    /// elements that change. Writes in place when no other handle shares the buffer.
    ///
    /// ```
    /// use mlx::{self as mx, array, Dtype};
    /// let mut x = mx::zeros([2, 3], Dtype::Float32);
    /// x.set((.., 1), array!([1.0, 2.0]));
    /// let mask = x.gt(1.5);
    /// x.set(&mask, 9);
    /// assert_eq!(x.to_vec::<f32>()?, [0., 1., 0., 0., 9., 0.]);
    /// # Ok::<(), mx::Error>(())
    /// ```
    #[track_caller]
    pub fn set<'a>(&mut self, index: impl IntoIndices<'a>, value: impl Operand) {
        let value = given(self, &value);
        let new = write(self, index.into_indices(), &value, Mode::Set);
        *self = new;
    }

    /// Accumulates by index, as `x.at[...]` in Python: `x.at(&rows).add(v)`. Repeated positions all count.
    pub fn at<'a>(&'a self, index: impl IntoIndices<'a>) -> At<'a> {
        At { array: self, indices: index.into_indices() }
    }
}

/// Positions of an array, for updates that give a new array: see [`Array::at`].
#[derive(Debug)]
#[must_use]
pub struct At<'a> {
    array: &'a Array,
    indices: Indices<'a>,
}

macro_rules! at_methods {
    ($($(#[$doc:meta])* $name:ident($v:ident) = $mode:ident, $update:expr;)*) => {
        impl At<'_> { $(
            $(#[$doc])*
            #[track_caller]
            #[must_use]
            pub fn $name(self, value: impl Operand) -> Array {
                let $v = given(self.array, &value);
                write(self.array, self.indices, &$update, Mode::$mode)
            }
        )* }
    };
}
at_methods! {
    /// Adds to the elements.
    add(v) = Add, v;
    /// Subtracts from the elements.
    subtract(v) = Add, v.negative();
    /// Multiplies the elements.
    multiply(v) = Prod, v;
    /// Multiplies the elements by 1 / value, which an integer array truncates, as in Python.
    divide(v) = Prod, v.reciprocal();
    /// Keeps the larger of element and value.
    maximum(v) = Max, v;
    /// Keeps the smaller of element and value.
    minimum(v) = Min, v;
}

#[track_caller]
fn given(a: &Array, value: &impl Operand) -> Array {
    match value.arg() {
        Arg::Array(v) => v.clone(),
        Arg::Scalar(s) => weak("set", s, a.dtype()),
    }
}

#[track_caller]
fn write(a: &Array, indices: Indices<'_>, value: &Array, mode: Mode) -> Array {
    if let [Index::Array(mask)] = &indices[..]
        && mask.dtype() == Dtype::Bool
        && mode == Mode::Set
    {
        return crate::masked_scatter(a, mask, value);
    }
    if let [Index::Ellipsis | Index::NewAxis] = &indices[..] {
        // the whole array; Python lets a lone None stand for it, too, and drops no axes of the value
        let plan = Plan::new("set", a, Indices::new());
        return update(a, &plan, value, mode);
    }
    let mut plan = Plan::new("set", a, indices);
    if plan.arrays == 0 {
        return update(a, &plan, &aligned(&plan, value), mode);
    }
    if !plan.sliced {
        return scatter(a, &plan, value, mode);
    }
    // index arrays work on the slice, which then goes back into its place
    let entries = std::mem::take(&mut plan.entries);
    let fixed = entries.iter().filter(|e| !matches!(e, Entry::New));
    plan.entries = fixed.map(|e| if matches!(e, Entry::Int) { Entry::Int } else { Entry::Slice }).collect();
    let region = sliced(a, &plan);
    let shape: Dims = region.shape().into();
    let inner = Plan {
        entries: entries.into_iter().filter(|e| !matches!(e, Entry::Int)).collect(),
        start: Dims::new(),
        stop: Dims::new(),
        step: Dims::new(),
        sizes: shape,
        sliced: false,
        arrays: plan.arrays,
    };
    let region = scatter(&region, &inner, value, mode);
    update(a, &plan, &aligned(&plan, &region), Mode::Set)
}

/// `value`, shaped like the result of a read, with one axis for each axis of the array.
#[track_caller]
fn aligned(plan: &Plan<'_>, value: &Array) -> Array {
    let shape = value.shape();
    let (mut dims, mut left) = (Dims::new(), shape.len());
    for e in plan.entries.iter().rev() {
        match e {
            Entry::Int if left > 0 => dims.push(1),
            Entry::Slice if left > 0 => {
                left -= 1;
                dims.push(shape[left]);
            }
            Entry::New if left > 0 => {
                left -= 1;
                if shape[left] != 1 {
                    refuse("set", format!("value {shape:?} has more than one element for a new axis"));
                }
            }
            _ => {}
        }
    }
    // leading axes of size 1 are dropped down to the rank of the array; one more may stand for a lone integer
    let lone = matches!(plan.entries[..], [Entry::Int, ..]) && plan.int_axes().len() == 1;
    let spare = shape.len().saturating_sub(plan.sizes.len()) + (lone && shape.len() >= plan.sizes.len()) as usize;
    if left > spare || shape[..left].iter().any(|&d| d != 1) {
        refuse("set", format!("value {shape:?} does not fit a selection of {:?}", &plan.sizes[..]));
    }
    dims.reverse();
    if dims[..] == *shape { value.clone() } else { value.reshape(&dims[..]) }
}

#[track_caller]
fn update(a: &Array, plan: &Plan<'_>, value: &Array, mode: Mode) -> Array {
    let f = match mode {
        Mode::Set => sys::mlx_slice_update,
        Mode::Add => sys::mlx_slice_update_add,
        Mode::Prod => sys::mlx_slice_update_prod,
        Mode::Max => sys::mlx_slice_update_max,
        Mode::Min => sys::mlx_slice_update_min,
    };
    let (start, stop, step) = (&plan.start, &plan.stop, &plan.step);
    // SAFETY: valid handles; pointers and lengths of live slices, steps are not 0
    ffi::op("set", &[a, value], |res, s| unsafe {
        f(res, a.raw, value.raw, start.as_ptr(), start.len(), stop.as_ptr(), stop.len(), step.as_ptr(), step.len(), s)
    })
}

/// Writes at index arrays; all other axes are whole.
#[track_caller]
fn scatter(a: &Array, plan: &Plan<'_>, value: &Array, mode: Mode) -> Array {
    let arrays = plan.index_arrays();
    let picked = crate::broadcast_shapes(&arrays.iter().map(|(_, i)| i.shape()).collect::<Vec<_>>());
    let (width, block) = (picked.len(), plan.block(false));
    let axes: Dims = arrays.iter().map(|(axis, _)| *axis).collect();

    // the shape of the selection as a read gives it
    let before = block.map_or(0, |first| plan.entries[..first].iter().filter(|e| matches!(e, Entry::Slice)).count());
    let mut shape: Dims = (0..).zip(a.shape()).filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect();
    shape.insert_from_slice(before, &picked);
    let news = new_axes(plan, block, width);
    news.iter().for_each(|&n| shape.insert(n as usize, 1));

    let ones = value.shape().iter().take_while(|&&d| d == 1).count() as i32;
    let mut v = if ones == 0 { value.clone() } else { value.squeeze(Axes::Some((0..ones).collect())) };
    if v.shape() != &shape[..] {
        v = crate::broadcast_to(&v, &shape[..]);
    }
    if !news.is_empty() {
        v = v.squeeze(Axes::Some(news));
    }
    if before > 0 && width > 0 {
        v = v.transpose(Axes::Some(moved(v.ndim(), before, width, 0)));
    }
    if v.size() == 0 {
        // nothing to write, and MLX would divide by it
        return a.clone();
    }
    // MLX wants the axes of the index arrays, then all axes of the array, size 1 where an index array stands
    let v = v.expand_dims(Axes::Some(axes.iter().map(|axis| axis + width as i32).collect()));
    let f = match mode {
        Mode::Set => sys::mlx_scatter,
        Mode::Add => sys::mlx_scatter_add,
        Mode::Prod => sys::mlx_scatter_prod,
        Mode::Max => sys::mlx_scatter_max,
        Mode::Min => sys::mlx_scatter_min,
    };
    let list = VectorArray::from_arrays(arrays.iter().map(|(_, i)| i));
    // SAFETY: valid handles; pointer and length of a live slice; indices are integers in range
    ffi::op("set", &[a, &v], |res, s| unsafe { f(res, a.raw, list.raw, v.raw, axes.as_ptr(), axes.len(), s) })
}
