//! Gradients: `grad`, `value_and_grad`, `vjp`, `jvp`.
//!
//! A function takes one tree of arrays and is differentiated with respect to all of it; arrays that it captures are
//! constants. So `argnums` is what you pass and what you capture.

use super::closure::{Closure, carry, finish};
use super::stack::deep;
use crate::error::refuse;
use crate::ffi::VectorArray;
use crate::tree::Tree;
use crate::{Array, stream};
use mlx_sys as sys;
use std::cell::RefCell;

/// The gradient of `f`, which gives a scalar (`mx.grad`).
///
/// ```
/// use mlx::{self as mx, Array, array};
/// let slope = mx::grad(|x: &Array| x.square().sum(()));
/// assert_eq!(slope(&array!([1.0, 2.0])).to_vec::<f32>()?, [2.0, 4.0]);
/// // transforms nest
/// let curvature = mx::grad(|x: &Array| mx::grad(|x: &Array| (x * x * x).sum(()))(x).sum(()));
/// assert_eq!(curvature(&array!(5.0)).item::<f32>()?, 30.0);
/// # Ok::<(), mx::Error>(())
/// ```
pub fn grad<T: Tree>(f: impl Fn(&T) -> Array) -> impl Fn(&T) -> T {
    move |args| value_and_grad(&f)(args).1
}

/// What `f` gives and the gradient of its first array, a scalar (`mx.value_and_grad`).
///
/// ```
/// use mlx::{self as mx, Array, array};
/// let target = array!([1.0, 1.0]);
/// let loss = |(w, b): &(Array, Array)| ((w * 2.0 + b - &target).square().sum(()), w + b);
/// let ((value, _aux), (dw, db)) = mx::value_and_grad(loss)(&(array!([1.0, 2.0]), array!(0.0)));
/// assert_eq!(value.item::<f32>()?, 10.0);
/// assert_eq!((dw.to_vec::<f32>()?, db.item::<f32>()?), (vec![4.0, 12.0], 8.0));
/// # Ok::<(), mx::Error>(())
/// ```
pub fn value_and_grad<T: Tree, R: Tree>(f: impl Fn(&T) -> R) -> impl Fn(&T) -> (R, T) {
    #[track_caller]
    fn run<T: Tree, R: Tree>(f: &impl Fn(&T) -> R, args: &T) -> (R, T) {
        let leaves = args.leaves();
        let all: Vec<i32> = (0..leaves.len() as i32).collect();
        let traced = Traced::new(f, args);
        let (values, grads) = value_and_grad_argnums(|a| traced.call(a), &leaves, &all);
        (traced.output(values), rebuilt(args, grads))
    }
    move |args| run(&f, args)
}

/// [`value_and_grad`] of a function that can fail; its error comes out as it is.
pub fn try_value_and_grad<T: Tree, R: Tree, E>(f: impl Fn(&T) -> Result<R, E>) -> impl Fn(&T) -> Result<(R, T), E> {
    move |args| carry(|slot| value_and_grad(|a| slot.unwrap(f(a)))(args))
}

/// A function over trees as one over lists; keeps the structure of what it gave.
pub(super) struct Traced<'f, T, R, F: Fn(&T) -> R> {
    f: &'f F,
    template: &'f T,
    result: RefCell<Option<R>>,
}

impl<'f, T: Tree, R: Tree, F: Fn(&T) -> R> Traced<'f, T, R, F> {
    pub fn new(f: &'f F, template: &'f T) -> Self {
        Traced { f, template, result: RefCell::new(None) }
    }

    pub fn call(&self, leaves: &[Array]) -> Vec<Array> {
        let result = (self.f)(&rebuilt(self.template, leaves.iter().cloned()));
        let leaves = result.leaves();
        *self.result.borrow_mut() = Some(result);
        leaves
    }

    #[track_caller]
    pub fn output(&self, leaves: Vec<Array>) -> R {
        match &*self.result.borrow() {
            Some(result) => rebuilt(result, leaves),
            None => refuse("transform", "the function was not called"),
        }
    }
}

/// `template` with other leaves.
#[track_caller]
pub(super) fn rebuilt<T: Tree>(template: &T, leaves: impl IntoIterator<Item = Array>) -> T {
    template.with_leaves(leaves).unwrap_or_else(|e| refuse("transform", e.to_string()))
}

/// The outputs of `f` and the gradients of the first one, a scalar, with respect to the arguments `argnums`, in the order
/// of `argnums` (`mx.value_and_grad(f, argnums)`).
///
/// The other outputs are not differentiated.
#[track_caller]
pub fn value_and_grad_argnums(
    f: impl Fn(&[Array]) -> Vec<Array>,
    args: &[Array],
    argnums: &[i32],
) -> (Vec<Array>, Vec<Array>) {
    // MLX differentiates a sorted set: gradients go back to the caller's order afterwards
    let mut sorted: Vec<i32> = argnums.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.iter().any(|&n| n < 0 || n as usize >= args.len()) {
        refuse("value_and_grad", format!("argnums {argnums:?} with {} arguments", args.len()));
    }
    let f = |a: &[Array]| {
        let outputs = f(a);
        match outputs.first() {
            Some(y) if y.ndim() == 0 => outputs,
            Some(y) => refuse("value_and_grad", format!("the function must give a scalar, not shape {:?}", y.shape())),
            None => refuse("value_and_grad", "the function gives nothing"),
        }
    };
    if sorted.is_empty() {
        return (f(args), Vec::new());
    }
    stream::current();
    let inputs = VectorArray::from_arrays(args);
    let (mut values, mut grads) = (VectorArray::new(), VectorArray::new());
    // SAFETY: both closure handles are freed before this returns, so that what `f` borrows outlives them
    let rc = deep(|| unsafe {
        let closure = Closure::scoped(Box::new(f));
        let mut transformed = ValueAndGrad { raw: sys::mlx_closure_value_and_grad_new() };
        match sys::mlx_value_and_grad(&mut transformed.raw, closure.raw, sorted.as_ptr(), sorted.len()) {
            0 => sys::mlx_closure_value_and_grad_apply(&mut values.raw, &mut grads.raw, transformed.raw, inputs.raw),
            rc => rc,
        }
    });
    finish("value_and_grad", rc);
    let grads = grads.to_vec();
    let place = |n: &i32| grads[sorted.binary_search(n).unwrap_or(0)].clone();
    (values.to_vec(), argnums.iter().map(place).collect())
}

struct ValueAndGrad {
    raw: sys::mlx_closure_value_and_grad,
}
impl Drop for ValueAndGrad {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once; null is allowed
        unsafe { sys::mlx_closure_value_and_grad_free(self.raw) };
    }
}

type Pairwise = unsafe extern "C" fn(
    *mut sys::mlx_vector_array,
    *mut sys::mlx_vector_array,
    sys::mlx_closure,
    sys::mlx_vector_array,
    sys::mlx_vector_array,
) -> std::ffi::c_int;

#[track_caller]
fn pairwise(
    op: &str,
    c: Pairwise,
    f: impl Fn(&[Array]) -> Vec<Array>,
    primals: &[Array],
    others: &[Array],
) -> (Vec<Array>, Vec<Array>) {
    stream::current();
    let (p, o) = (VectorArray::from_arrays(primals), VectorArray::from_arrays(others));
    let (mut a, mut b) = (VectorArray::new(), VectorArray::new());
    // SAFETY: the closure handle is freed before this returns
    let rc = deep(|| unsafe {
        let closure = Closure::scoped(Box::new(f));
        c(&mut a.raw, &mut b.raw, closure.raw, p.raw, o.raw)
    });
    finish(op, rc);
    (a.to_vec(), b.to_vec())
}

/// What `f` gives and the products of `cotangents`, shaped like it, with its Jacobian (`mx.vjp`).
#[track_caller]
pub fn vjp<T: Tree, R: Tree>(f: impl Fn(&T) -> R, primals: &T, cotangents: &R) -> (R, T) {
    let traced = Traced::new(&f, primals);
    let (values, products) = pairwise("vjp", sys::mlx_vjp, |a| traced.call(a), &primals.leaves(), &cotangents.leaves());
    (traced.output(values), rebuilt(primals, products))
}

/// What `f` gives and the products of its Jacobian with `tangents`, shaped like the primals (`mx.jvp`).
#[track_caller]
pub fn jvp<T: Tree, R: Tree>(f: impl Fn(&T) -> R, primals: &T, tangents: &T) -> (R, R) {
    let traced = Traced::new(&f, primals);
    let (values, products) = pairwise("jvp", sys::mlx_jvp, |a| traced.call(a), &primals.leaves(), &tangents.leaves());
    let products = traced.output(products);
    (traced.output(values), products)
}
