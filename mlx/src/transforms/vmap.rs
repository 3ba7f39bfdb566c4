//! Vectorisation: a function of one example applied to a batch.

use super::autograd::{Traced, rebuilt};
use super::closure::{Closure, finish};
use super::stack::deep;
use crate::error::refuse;
use crate::ffi::VectorArray;
use crate::tree::Tree;
use crate::{Array, stream};
use mlx_sys as sys;

/// Which axis of each leaf is the batch: one for all leaves, or one for each; `None` is not batched.
#[derive(Debug, Clone)]
pub enum MapAxes {
    Every(Option<i32>),
    Each(Vec<Option<i32>>),
}

impl From<i32> for MapAxes {
    fn from(axis: i32) -> Self {
        MapAxes::Every(Some(axis))
    }
}
impl From<Option<i32>> for MapAxes {
    fn from(axis: Option<i32>) -> Self {
        MapAxes::Every(axis)
    }
}
impl<const N: usize> From<[Option<i32>; N]> for MapAxes {
    fn from(axes: [Option<i32>; N]) -> Self {
        MapAxes::Each(axes.to_vec())
    }
}
impl<const N: usize> From<[i32; N]> for MapAxes {
    fn from(axes: [i32; N]) -> Self {
        MapAxes::Each(axes.map(Some).to_vec())
    }
}
impl From<Vec<Option<i32>>> for MapAxes {
    fn from(axes: Vec<Option<i32>>) -> Self {
        MapAxes::Each(axes)
    }
}

impl MapAxes {
    /// C's form, in which -1 is not batched; `extra` axes are added to the leaves' own.
    #[track_caller]
    fn resolve(&self, leaves: &[Array], extra: i32) -> Vec<i32> {
        let axis = |i: usize, a: &Array| {
            let axis = match self {
                MapAxes::Every(axis) => *axis,
                MapAxes::Each(axes) => axes[i],
            };
            let n = a.ndim() as i32 + extra;
            match axis {
                None => -1,
                Some(x) if (-n..n).contains(&x) => (x + n) % n,
                Some(x) => refuse("vmap", format!("axis {x} of a leaf of shape {:?}", a.shape())),
            }
        };
        if let MapAxes::Each(axes) = self
            && axes.len() != leaves.len()
        {
            refuse("vmap", format!("{} axes for {} arrays", axes.len(), leaves.len()));
        }
        leaves.iter().enumerate().map(|(i, a)| axis(i, a)).collect()
    }
}

/// `f` over the first axis of every argument; results are stacked along a new first axis (`mx.vmap`).
///
/// ```
/// use mlx::{self as mx, Array, array};
/// let dot = mx::vmap(|(a, b): &(Array, Array)| (a * b).sum(()));
/// let x = array!([[1.0, 2.0], [3.0, 4.0]]);
/// assert_eq!(dot(&(x.clone(), x)).to_vec::<f32>()?, [5.0, 25.0]);
/// # Ok::<(), mx::Error>(())
/// ```
pub fn vmap<T: Tree, R: Tree>(f: impl Fn(&T) -> R) -> impl Fn(&T) -> R {
    vmap_axes(f, 0, 0)
}

/// [`vmap`] with the batch axis of every input and output (`in_axes`, `out_axes`).
pub fn vmap_axes<T: Tree, R: Tree>(
    f: impl Fn(&T) -> R,
    in_axes: impl Into<MapAxes>,
    out_axes: impl Into<MapAxes>,
) -> impl Fn(&T) -> R {
    let (in_axes, out_axes) = (in_axes.into(), out_axes.into());
    move |args| run(&f, args, &in_axes, &out_axes)
}

#[track_caller]
fn run<T: Tree, R: Tree>(f: &impl Fn(&T) -> R, args: &T, in_axes: &MapAxes, out_axes: &MapAxes) -> R {
    stream::current();
    let traced = Traced::new(f, args);
    let leaves = args.leaves();
    let axes = in_axes.resolve(&leaves, 0);
    let mut batch = axes.iter().zip(&leaves).filter(|(axis, _)| **axis >= 0).map(|(axis, a)| a.dim(*axis));
    match batch.next() {
        None => refuse("vmap", "no argument has a batch axis"),
        Some(n) if batch.any(|m| m != n) => {
            let shapes: Vec<&[i32]> = leaves.iter().map(Array::shape).collect();
            refuse("vmap", format!("batches of different size: {shapes:?} along {axes:?}"))
        }
        Some(_) => {}
    }
    let inputs = VectorArray::from_arrays(&leaves);
    let (mut traced_in, mut traced_out, mut res) = (VectorArray::new(), VectorArray::new(), VectorArray::new());
    // SAFETY: the closure handle is freed before this returns
    let rc = deep(|| unsafe {
        let closure = Closure::scoped(Box::new(|a: &[Array]| traced.call(a)));
        sys::mlx_detail_vmap_trace(
            &mut traced_in.raw,
            &mut traced_out.raw,
            closure.raw,
            inputs.raw,
            axes.as_ptr(),
            axes.len(),
        )
    });
    finish("vmap", rc);
    let outs = out_axes.resolve(&traced_out.to_vec(), 1);
    // SAFETY: valid handles, one axis for each input and output
    let rc = deep(|| unsafe {
        sys::mlx_detail_vmap_replace(
            &mut res.raw,
            inputs.raw,
            traced_in.raw,
            traced_out.raw,
            axes.as_ptr(),
            axes.len(),
            outs.as_ptr(),
            outs.len(),
        )
    });
    finish("vmap", rc);
    rebuilt(&traced.output(traced_out.to_vec()), res.to_vec())
}
