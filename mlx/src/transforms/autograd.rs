//! Gradients: `grad`, `value_and_grad`, `vjp`, `jvp`.

use super::closure::{Closure, deep, finish};
use crate::error::refuse;
use crate::ffi::VectorArray;
use crate::{Array, stream};
use mlx_sys as sys;

/// The outputs of `f` and the gradients of the first one, a scalar, with respect to the arguments `argnums`.
///
/// Arrays that `f` captures are constants. The other outputs are not differentiated. Panics inside `f` pass through.
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
    if sorted.is_empty() {
        return (f(args), Vec::new());
    }
    stream::current();
    let f = |a: &[Array]| {
        let outputs = f(a);
        match outputs.first() {
            Some(y) if y.ndim() == 0 => outputs,
            Some(y) => refuse("value_and_grad", format!("the function must give a scalar, not shape {:?}", y.shape())),
            None => refuse("value_and_grad", "the function gives nothing"),
        }
    };
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

/// The outputs of `f` and the vector-Jacobian products of `cotangents`, one per output, for every primal (`mx.vjp`).
#[track_caller]
pub fn vjp(f: impl Fn(&[Array]) -> Vec<Array>, primals: &[Array], cotangents: &[Array]) -> (Vec<Array>, Vec<Array>) {
    pairwise("vjp", sys::mlx_vjp, f, primals, cotangents)
}

/// The outputs of `f` and the Jacobian-vector products of `tangents`, one per primal, for every output (`mx.jvp`).
#[track_caller]
pub fn jvp(f: impl Fn(&[Array]) -> Vec<Array>, primals: &[Array], tangents: &[Array]) -> (Vec<Array>, Vec<Array>) {
    pairwise("jvp", sys::mlx_jvp, f, primals, tangents)
}
