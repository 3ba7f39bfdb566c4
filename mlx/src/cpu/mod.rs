//! SIMD kernels of `mlx-kernels` in the place of MLX's own CPU ops: packed and 16-bit products, attention, norms, rope,
//! gated activations, recurrences, short convolutions.
//!
//! Each op asks here first; what a kernel does not take (another device, dtype, shape) goes to MLX. A kernel runs as an
//! MLX primitive on MLX's worker thread. Derivatives, `vmap` and shapeless compilation use the plain op, which is also
//! the oracle of its tests.

mod attention;
mod fused;
mod products;
mod rows;
mod scans;
mod view;

pub(crate) use attention::{rope, sdpa};
pub(crate) use fused::{attend, attend_between, embed, fused_linear, is_attendable};
pub(crate) use products::{gather_linear, gather_qmm, linear, quantized_matmul, quantized_straight, scales_fit};
pub use rows::Gate;
pub(crate) use rows::{gated, rms_norm};
pub(crate) use scans::{linear_scan, selective_scan, short_conv, slot_scan};

use crate::ffi::{self, VectorArray};
use crate::transforms::closure::Closure;
use crate::{Array, Dtype, stream};
use mlx_sys as sys;
use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use view::View;

type Kernel = dyn Fn(&[View<'_>], &[View<'_>]) -> Result<(), String> + Send + Sync;

/// Whether ops of the current stream run on the CPU.
pub(crate) fn is_current() -> bool {
    stream::is_cpu()
}

/// Whether kernels take this element type.
pub(crate) fn takes(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

/// Whether kernels that compute in this element type take an operand of another one, without a result of a third.
pub(crate) fn takes_with(dtype: Dtype, operand: Dtype) -> bool {
    takes(operand) && dtype.promote(operand) == dtype
}

/// Queues a kernel with one output. `strided` has a bit for each input that the kernel takes as it lies.
#[track_caller]
fn op(
    name: &'static CStr,
    inputs: &[&Array],
    output: (&[i32], Dtype),
    strided: u64,
    kernel: impl Fn(&[View<'_>], &[View<'_>]) -> Result<(), String> + Send + Sync + 'static,
    fallback: impl Fn(&[Array]) -> Array + 'static,
) -> Array {
    let [out] = queue(name, inputs, [output], strided, kernel, Some(Closure::owned(move |x| vec![fallback(x)])));
    out
}

/// As [`op`] with several outputs.
#[track_caller]
fn ops<const N: usize>(
    name: &'static CStr,
    inputs: &[&Array],
    outputs: [(&[i32], Dtype); N],
    strided: u64,
    kernel: impl Fn(&[View<'_>], &[View<'_>]) -> Result<(), String> + Send + Sync + 'static,
    fallback: impl Fn(&[Array]) -> [Array; N] + 'static,
) -> [Array; N] {
    queue(name, inputs, outputs, strided, kernel, Some(Closure::owned(move |x| fallback(x).to_vec())))
}

/// As [`op`] without a plain form: the caller has seen that no transform watches the inputs.
#[track_caller]
fn op_alone(
    name: &'static CStr,
    inputs: &[&Array],
    output: (&[i32], Dtype),
    strided: u64,
    kernel: impl Fn(&[View<'_>], &[View<'_>]) -> Result<(), String> + Send + Sync + 'static,
) -> Array {
    let [out] = queue(name, inputs, [output], strided, kernel, None);
    out
}

#[track_caller]
fn queue<const N: usize>(
    name: &'static CStr,
    inputs: &[&Array],
    outputs: [(&[i32], Dtype); N],
    strided: u64,
    kernel: impl Fn(&[View<'_>], &[View<'_>]) -> Result<(), String> + Send + Sync + 'static,
    fallback: Option<Closure>,
) -> [Array; N] {
    let text = name.to_str().unwrap_or_default();
    let v = VectorArray::from_arrays(inputs.iter().copied());
    let fallback_raw = fallback.as_ref().map_or(sys::mlx_closure { ctx: std::ptr::null_mut() }, |f| f.raw);
    let kernel: Box<Box<Kernel>> = Box::new(Box::new(kernel));
    let payload = Box::into_raw(kernel).cast::<c_void>();
    let (shapes, ndims) = (outputs.map(|o| o.0.as_ptr()), outputs.map(|o| o.0.len()));
    let dtypes = outputs.map(|o| o.1.raw());
    let out = ffi::op_many(text, inputs, |res, s| {
        // SAFETY: outputs described by live locals; the payload matches `run` and `free` and is C's from here on
        unsafe {
            sys::mlxs_cpu_op(
                res,
                name.as_ptr(),
                v.raw,
                shapes.as_ptr(),
                ndims.as_ptr(),
                dtypes.as_ptr(),
                N,
                run,
                payload,
                Some(free),
                strided,
                fallback_raw,
                s,
            )
        }
    });
    match out.try_into() {
        Ok(all) => all,
        Err(_) => crate::error::refuse(text, "the kernel has other outputs"),
    }
}

unsafe extern "C" fn run(
    inputs: *const sys::mlxs_view,
    n_in: usize,
    outputs: *const sys::mlxs_view,
    n_out: usize,
    payload: *mut c_void,
) -> c_int {
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the payload that `op` made; the views live for this call
        let (kernel, inputs, outputs) = unsafe {
            (
                &*payload.cast::<Box<Kernel>>(),
                std::slice::from_raw_parts(inputs, n_in),
                std::slice::from_raw_parts(outputs, n_out),
            )
        };
        kernel(&wrap(inputs), &wrap(outputs))
    }));
    match result {
        Ok(Ok(())) => 0,
        Ok(Err(_)) => 1,
        Err(_) => 2,
    }
}

fn wrap(views: &[sys::mlxs_view]) -> smallvec::SmallVec<[View<'_>; 6]> {
    views.iter().map(View::new).collect()
}

unsafe extern "C" fn free(payload: *mut c_void) {
    // SAFETY: the pointer that `op` gave away, freed once
    drop(unsafe { Box::from_raw(payload.cast::<Box<Kernel>>()) });
}
