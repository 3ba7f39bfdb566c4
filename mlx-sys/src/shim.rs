//! The functions of our own C++ shim (`mlx-sys/shim`): facts that mlx-c does not pass on, CPU kernels as
//! primitives, precompiled CUDA kernels. All return 0, or 1 after the error handler was called.

use crate::{mlx_array, mlx_closure, mlx_device, mlx_dtype, mlx_stream, mlx_string, mlx_vector_array};
use core::ffi::{c_char, c_int, c_void};

/// One operand while a CPU kernel runs. Strides count elements.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mlxs_view {
    pub data: *mut c_void,
    pub dtype: mlx_dtype,
    pub ndim: c_int,
    pub shape: *const c_int,
    pub strides: *const i64,
}

/// `kernel(inputs, n_inputs, outputs, n_outputs, payload)`, on MLX's worker thread; must not unwind.
/// Returns 0, or a code that fails the evaluation.
#[allow(non_camel_case_types)]
pub type mlxs_cpu_kernel = unsafe extern "C" fn(*const mlxs_view, usize, *const mlxs_view, usize, *mut c_void) -> c_int;

/// A scalar argument of a CUDA kernel: `kind` 0 bool, 1 int, 2 float.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mlxs_scalar {
    pub kind: c_int,
    pub integer: c_int,
    pub real: f32,
}

unsafe extern "C" {
    /// Number of handles and graph nodes that hold this array.
    pub fn mlxs_array_use_count(res: *mut usize, a: mlx_array) -> c_int;
    /// Number of arrays that share this array's buffer.
    pub fn mlxs_array_data_use_count(res: *mut usize, a: mlx_array) -> c_int;
    /// A number for the buffer that holds a computed, row-contiguous array, and where in it the array starts (bytes); 0
    /// for any other array.
    pub fn mlxs_array_buffer(buffer: *mut usize, offset: *mut i64, a: mlx_array) -> c_int;
    /// Cuts an evaluated array off its graph.
    pub fn mlxs_array_detach(a: mlx_array) -> c_int;
    /// 0 not scheduled, 1 being computed, 2 readable.
    pub fn mlxs_array_status(res: *mut c_int, a: mlx_array) -> c_int;
    pub fn mlxs_array_is_tracer(res: *mut bool, a: mlx_array) -> c_int;
    pub fn mlxs_array_has_primitive(res: *mut bool, a: mlx_array) -> c_int;
    /// Name of the operation that makes this array; empty for a leaf.
    pub fn mlxs_array_primitive_name(res: *mut mlx_string, a: mlx_array) -> c_int;
    /// Equal for the outputs of one operation; 0 for a leaf.
    pub fn mlxs_array_primitive_id(res: *mut usize, a: mlx_array) -> c_int;
    pub fn mlxs_array_id(res: *mut usize, a: mlx_array) -> c_int;
    /// The arrays this one is computed from; empty once evaluated.
    pub fn mlxs_array_inputs(res: *mut mlx_vector_array, a: mlx_array) -> c_int;
    /// The values of an evaluated array as Python prints them, floats with `precision` digits (-1: as many as needed).
    pub fn mlxs_array_tostring(res: *mut mlx_string, a: mlx_array, precision: c_int) -> c_int;
    /// Elements in the underlying buffer (evaluated arrays).
    pub fn mlxs_array_data_size(res: *mut usize, a: mlx_array) -> c_int;
    /// As `mlx_stream_equal`, with an error for null handles.
    pub fn mlxs_stream_equal(res: *mut bool, a: mlx_stream, b: mlx_stream) -> c_int;
    /// As `mlx_device_equal`, with an error for null handles.
    pub fn mlxs_device_equal(res: *mut bool, a: mlx_device, b: mlx_device) -> c_int;

    /// Path of the libmlx that the process runs on.
    pub fn mlxs_loaded_mlx(res: *mut mlx_string) -> c_int;
    /// What the loaded OpenBLAS says of itself (version, processor, threads); empty if another BLAS is loaded.
    pub fn mlxs_loaded_blas(res: *mut mlx_string) -> c_int;

    /// Remembers `outputs`, with `walk` also all arrays that they still need, without keeping any of them alive.
    pub fn mlxs_pending_new(res: *mut *mut c_void, outputs: mlx_vector_array, walk: bool) -> c_int;
    /// Whether any of them lives and is not computed yet.
    pub fn mlxs_pending_waits(pending: *const c_void) -> bool;
    /// Waits for the streams that compute them; 1 if anything on these failed.
    pub fn mlxs_pending_wait(pending: *const c_void) -> c_int;
    /// Makes those that live an error at every later evaluation.
    pub fn mlxs_pending_poison(pending: *const c_void);
    pub fn mlxs_pending_free(pending: *mut c_void);

    /// Outputs of a CPU kernel as lazy arrays. `shapes[i]` has `ndims[i]` entries. Inputs reach the kernel
    /// row-contiguous, unless bit i of `strided` says that it takes input i as it lies. `payload` belongs to
    /// the call from the start (`dtor` runs on any thread, also after an error). `fallback` builds the same
    /// from plain operations, for derivatives, vmap, shapeless compilation and other devices; may be null.
    pub fn mlxs_cpu_op(
        res: *mut mlx_vector_array,
        name: *const c_char,
        inputs: mlx_vector_array,
        shapes: *const *const c_int,
        ndims: *const usize,
        dtypes: *const mlx_dtype,
        n_outputs: usize,
        kernel: mlxs_cpu_kernel,
        payload: *mut c_void,
        dtor: Option<unsafe extern "C" fn(*mut c_void)>,
        strided: u64,
        fallback: mlx_closure,
        stream: mlx_stream,
    ) -> c_int;

    /// The hash of a text by which MLX tells loaded kernel modules apart.
    pub fn mlxs_text_hash(text: *const c_char, len: usize) -> usize;

    /// Outputs of a CUDA kernel compiled ahead of time (`image`: cubin or PTX bytes). `grid` and `threadgroup`
    /// have three entries; `init_value` may be null.
    pub fn mlxs_precompiled_cuda_kernel(
        res: *mut mlx_vector_array,
        name: *const c_char,
        image: *const c_char,
        image_len: usize,
        inputs: mlx_vector_array,
        shapes: *const *const c_int,
        ndims: *const usize,
        dtypes: *const mlx_dtype,
        n_outputs: usize,
        scalars: *const mlxs_scalar,
        n_scalars: usize,
        grid: *const c_int,
        threadgroup: *const c_int,
        shared_memory: c_int,
        init_value: *const f32,
        ensure_row_contiguous: bool,
        stream: mlx_stream,
    ) -> c_int;
}
