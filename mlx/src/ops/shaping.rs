//! Ops that change shape or order, not values.

use crate::Array;
use crate::error::refuse;
use crate::ffi::{self, VectorArray};
use crate::ops::reduce::resolve;
use crate::scalar::{Operand, weak};
use crate::shape::{Axes, Shape};
use mlx_sys as sys;
use std::borrow::Borrow;

impl Array {
    /// The same elements in another shape; one dimension may be -1.
    #[track_caller]
    #[must_use]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Array {
        let shape = shape.into();
        if shape.iter().map(|&d| if d >= 0 { 0 } else { 1 + (d < -1) as usize }).sum::<usize>() > 1 {
            refuse("reshape", format!("shape {:?} is not allowed for {:?}", &shape[..], self.shape()));
        }
        // SAFETY: valid handles; pointer and length of a live slice
        ffi::view("reshape", self, |res, s| unsafe { sys::mlx_reshape(res, self.raw, shape.as_ptr(), shape.len(), s) })
    }

    /// Axes in another order; `()` reverses them.
    #[track_caller]
    #[must_use]
    pub fn transpose(&self, axes: impl Into<Axes>) -> Array {
        match axes.into() {
            // SAFETY: valid handles
            Axes::All => ffi::view("transpose", self, |res, s| unsafe { sys::mlx_transpose(res, self.raw, s) }),
            Axes::Some(axes) => ffi::view("transpose", self, |res, s| unsafe {
                sys::mlx_transpose_axes(res, self.raw, axes.as_ptr(), axes.len(), s)
            }),
        }
    }

    /// All axes reversed (`array.T`).
    #[track_caller]
    #[must_use]
    pub fn t(&self) -> Array {
        self.transpose(())
    }

    #[track_caller]
    #[must_use]
    pub fn swapaxes(&self, a: i32, b: i32) -> Array {
        // SAFETY: valid handles
        ffi::view("swapaxes", self, |res, s| unsafe { sys::mlx_swapaxes(res, self.raw, a, b, s) })
    }

    #[track_caller]
    #[must_use]
    pub fn moveaxis(&self, source: i32, destination: i32) -> Array {
        // SAFETY: valid handles
        ffi::view("moveaxis", self, |res, s| unsafe { sys::mlx_moveaxis(res, self.raw, source, destination, s) })
    }

    /// Merges the axes `start..=end` into one.
    #[track_caller]
    #[must_use]
    pub fn flatten(&self, start: i32, end: i32) -> Array {
        // SAFETY: valid handles
        ffi::view("flatten", self, |res, s| unsafe { sys::mlx_flatten(res, self.raw, start, end, s) })
    }

    /// Splits one axis into several; one dimension may be -1.
    #[track_caller]
    #[must_use]
    pub fn unflatten(&self, axis: i32, shape: impl Into<Shape>) -> Array {
        let shape = shape.into();
        if shape.iter().any(|&d| d < -1) {
            refuse("unflatten", format!("shape {:?} is not allowed", &shape[..]));
        }
        // SAFETY: valid handles; pointer and length of a live slice
        ffi::view("unflatten", self, |res, s| unsafe {
            sys::mlx_unflatten(res, self.raw, axis, shape.as_ptr(), shape.len(), s)
        })
    }

    /// Inserts axes of size 1 at these places of the result.
    #[track_caller]
    #[must_use]
    pub fn expand_dims(&self, axes: impl Into<Axes>) -> Array {
        match axes.into() {
            Axes::All => self.clone(),
            // SAFETY: valid handles
            Axes::Some(axes) => ffi::view("expand_dims", self, |res, s| unsafe {
                sys::mlx_expand_dims_axes(res, self.raw, axes.as_ptr(), axes.len(), s)
            }),
        }
    }

    /// Removes axes of size 1; `()` removes all of them.
    #[track_caller]
    #[must_use]
    pub fn squeeze(&self, axes: impl Into<Axes>) -> Array {
        match axes.into() {
            // SAFETY: valid handles
            Axes::All => ffi::view("squeeze", self, |res, s| unsafe { sys::mlx_squeeze(res, self.raw, s) }),
            Axes::Some(axes) => ffi::view("squeeze", self, |res, s| unsafe {
                sys::mlx_squeeze_axes(res, self.raw, axes.as_ptr(), axes.len(), s)
            }),
        }
    }

    /// Splits into `parts` equal parts along `axis`.
    #[track_caller]
    pub fn split(&self, parts: i32, axis: i32) -> Vec<Array> {
        if parts < 1 || parts > self.dim(axis).max(1) {
            refuse("split", format!("{parts} parts of axis {axis} of shape {:?}", self.shape()));
        }
        // SAFETY: valid handles
        ffi::op_many("split", &[self], |res, s| unsafe { sys::mlx_split(res, self.raw, parts, axis, s) })
    }

    /// Splits before each of the `indices` along `axis`.
    #[track_caller]
    pub fn split_at(&self, indices: &[i32], axis: i32) -> Vec<Array> {
        // SAFETY: valid handles; pointer and length of a live slice
        ffi::op_many("split", &[self], |res, s| unsafe {
            sys::mlx_split_sections(res, self.raw, indices.as_ptr(), indices.len(), axis, s)
        })
    }
}

/// `a` repeated along new or size-1 axes.
#[track_caller]
pub fn broadcast_to(a: &Array, shape: impl Into<Shape>) -> Array {
    let shape = shape.into();
    crate::ops::creation::check_shape("broadcast_to", &shape);
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("broadcast_to", &[a], |res, s| unsafe { sys::mlx_broadcast_to(res, a.raw, shape.as_ptr(), shape.len(), s) })
}

/// The shape that arrays of these shapes take side by side (`mx.broadcast_shapes`); panics if they do not go together.
#[track_caller]
pub fn broadcast_shapes<S: AsRef<[i32]>>(shapes: &[S]) -> Vec<i32> {
    let Some(ndim) = shapes.iter().map(|s| s.as_ref().len()).max() else {
        refuse("broadcast_shapes", "at least one shape expected")
    };
    let mut out = vec![1; ndim];
    for shape in shapes.iter().map(AsRef::as_ref) {
        for (o, &d) in out[ndim - shape.len()..].iter_mut().zip(shape) {
            match (*o, d) {
                (1, d) => *o = d,
                (o, d) if o == d || d == 1 => {}
                _ => {
                    let all: Vec<&[i32]> = shapes.iter().map(AsRef::as_ref).collect();
                    refuse("broadcast_shapes", format!("shapes {all:?} cannot be broadcast"));
                }
            }
        }
    }
    out
}

/// Joins arrays along an existing axis.
#[track_caller]
pub fn concatenate<A: Borrow<Array>>(arrays: &[A], axis: i32) -> Array {
    let refs: smallvec::SmallVec<[&Array; 8]> = arrays.iter().map(Borrow::borrow).collect();
    let v = VectorArray::from_arrays(refs.iter().copied());
    // SAFETY: valid handles
    ffi::op("concatenate", &refs, |res, s| unsafe { sys::mlx_concatenate_axis(res, v.raw, axis, s) })
}

/// Joins arrays along a new axis.
#[track_caller]
pub fn stack<A: Borrow<Array>>(arrays: &[A], axis: i32) -> Array {
    let refs: smallvec::SmallVec<[&Array; 8]> = arrays.iter().map(Borrow::borrow).collect();
    let v = VectorArray::from_arrays(refs.iter().copied());
    // SAFETY: valid handles
    ffi::op("stack", &refs, |res, s| unsafe { sys::mlx_stack_axis(res, v.raw, axis, s) })
}

/// Joins arrays into a vector, each in row-major order (`concatenate(arrays, axis=None)` in Python).
#[track_caller]
pub fn concatenate_flat<A: Borrow<Array>>(arrays: &[A]) -> Array {
    let flat: Vec<Array> = arrays.iter().map(|a| a.borrow().reshape(-1)).collect();
    concatenate(&flat, 0)
}

/// Each element `repeats` times along `axis`; `None` over the flat array.
#[track_caller]
pub fn repeat(a: &Array, repeats: i32, axis: impl Into<Option<i32>>) -> Array {
    // SAFETY: valid handles
    ffi::op("repeat", &[a], |res, s| unsafe {
        match axis.into() {
            None => sys::mlx_repeat(res, a.raw, repeats, s),
            Some(axis) => sys::mlx_repeat_axis(res, a.raw, repeats, axis, s),
        }
    })
}

/// The whole array repeated along each axis.
#[track_caller]
pub fn tile(a: &Array, reps: impl Into<Shape>) -> Array {
    let reps = reps.into();
    // SAFETY: valid handles; pointer and length of a live slice
    ffi::op("tile", &[a], |res, s| unsafe { sys::mlx_tile(res, a.raw, reps.as_ptr(), reps.len(), s) })
}

/// How the new elements of [`pad`] come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PadMode {
    #[default]
    Constant,
    /// The outermost element repeated.
    Edge,
    /// Mirrored at the outermost element, which is not repeated.
    Reflect,
    /// Mirrored behind the outermost element, which is repeated.
    Symmetric,
}

impl PadMode {
    /// Python's name: `"edge"`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Constant, Self::Edge, Self::Reflect, Self::Symmetric].into_iter().find(|m| m.c().to_str() == Ok(name))
    }
    fn c(self) -> &'static std::ffi::CStr {
        match self {
            PadMode::Constant => c"constant",
            PadMode::Edge => c"edge",
            PadMode::Reflect => c"reflect",
            PadMode::Symmetric => c"symmetric",
        }
    }
}

/// Adds `(before, after)` elements on each axis; a list of one pair holds for all axes.
#[track_caller]
pub fn pad(a: &Array, widths: &[(i32, i32)], value: impl Operand, mode: PadMode) -> Array {
    let spread;
    let widths = match widths {
        [one] if a.ndim() != 1 => {
            spread = vec![*one; a.ndim()];
            &spread[..]
        }
        widths => widths,
    };
    if widths.len() != a.ndim() || widths.iter().any(|&(l, h)| l < 0 || h < 0) {
        refuse("pad", format!("widths {widths:?} do not fit shape {:?}", a.shape()));
    }
    let value = match value.arg() {
        crate::scalar::Arg::Array(v) => v.clone(),
        crate::scalar::Arg::Scalar(s) => weak("pad", s, a.dtype()),
    };
    let axes: Vec<i32> = (0..a.ndim() as i32).collect();
    let (low, high): (Vec<i32>, Vec<i32>) = widths.iter().copied().unzip();
    let mode = mode.c();
    // SAFETY: valid handles; pointers and lengths of live slices
    ffi::op("pad", &[a], |res, s| unsafe {
        sys::mlx_pad(
            res,
            a.raw,
            axes.as_ptr(),
            axes.len(),
            low.as_ptr(),
            low.len(),
            high.as_ptr(),
            high.len(),
            value.raw,
            mode.as_ptr(),
            s,
        )
    })
}

/// Views of all arrays in the shape that they have in common.
#[track_caller]
pub fn broadcast_arrays<A: Borrow<Array>>(arrays: &[A]) -> Vec<Array> {
    let refs: smallvec::SmallVec<[&Array; 8]> = arrays.iter().map(Borrow::borrow).collect();
    let v = VectorArray::from_arrays(refs.iter().copied());
    // SAFETY: valid handles
    ffi::op_many("broadcast_arrays", &refs, |res, s| unsafe { sys::mlx_broadcast_arrays(res, v.raw, s) })
}

/// The slices along `axis`, which goes.
#[track_caller]
pub fn unstack(a: &Array, axis: i32) -> Vec<Array> {
    // SAFETY: valid handles
    ffi::op_many("unstack", &[a], |res, s| unsafe { sys::mlx_unstack_axis(res, a.raw, axis, s) })
}

macro_rules! at_least {
    ($($(#[$doc:meta])* $name:ident = $c:ident;)*) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(a: &Array) -> Array {
            // SAFETY: valid handles
            ffi::op(stringify!($name), &[a], |res, s| unsafe { sys::$c(res, a.raw, s) })
        }
    )* };
}
at_least! {
    /// A number as a vector of one; others as they are.
    atleast_1d = mlx_atleast_1d;
    /// With two axes at least: a vector becomes a row.
    atleast_2d = mlx_atleast_2d;
    /// With three axes at least: a matrix becomes [rows, columns, 1].
    atleast_3d = mlx_atleast_3d;
}

/// `inputs` that are not computed before `dependencies` are.
#[track_caller]
pub fn depends<A: Borrow<Array>, B: Borrow<Array>>(inputs: &[A], dependencies: &[B]) -> Vec<Array> {
    let refs: smallvec::SmallVec<[&Array; 8]> = inputs.iter().map(Borrow::borrow).collect();
    let v = VectorArray::from_arrays(refs.iter().copied());
    let d = VectorArray::from_arrays(dependencies.iter().map(Borrow::borrow));
    // SAFETY: valid handles
    ffi::op_many("depends", &refs, |res, _| unsafe { sys::mlx_depends(res, v.raw, d.raw) })
}

/// Shifts elements along the axes, around the end; `()` rolls the flat array.
///
/// One shift serves all axes; several shifts for one axis add up.
#[track_caller]
pub fn roll(a: &Array, shift: impl Into<Shape>, axes: impl Into<Axes>) -> Array {
    let mut shift = shift.into();
    // SAFETY: valid handles; pointers and lengths of live slices
    match axes.into() {
        Axes::All => {
            ffi::op("roll", &[a], |res, s| unsafe { sys::mlx_roll(res, a.raw, shift.as_ptr(), shift.len(), s) })
        }
        Axes::Some(axes) if axes.len() == 1 => ffi::op("roll", &[a], |res, s| unsafe {
            sys::mlx_roll_axis(res, a.raw, shift.as_ptr(), shift.len(), axes[0], s)
        }),
        Axes::Some(axes) => {
            if let [one] = shift[..] {
                shift = Shape(smallvec::SmallVec::from_elem(one, axes.len()));
            }
            ffi::op("roll", &[a], |res, s| unsafe {
                sys::mlx_roll_axes(res, a.raw, shift.as_ptr(), shift.len(), axes.as_ptr(), axes.len(), s)
            })
        }
    }
}

/// Reverses the order along the axes.
#[track_caller]
pub fn flip(a: &Array, axes: impl Into<Axes>) -> Array {
    let axes = resolve("flip", a, axes);
    // SAFETY: valid handles; axes are in range
    ffi::op("flip", &[a], |res, s| unsafe { sys::mlx_flip_axes(res, a.raw, axes.as_ptr(), axes.len(), s) })
}
