//! Kernels that users write: Metal or CUDA source, compiled when first used, one node of the graph per call.

use crate::error::{Error, Result, refuse};
use crate::ffi::{self, VectorArray};
use crate::{Array, Dtype, Shape};
use mlx_sys as sys;
use std::ffi::{CString, c_char};
use std::fmt;

/// What a kernel is made of.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource<'a> {
    /// An identifier that names the generated function.
    pub name: &'a str,
    /// Names of the inputs in the body. For each `x` that the body mentions, `x_shape`, `x_strides` and `x_ndim` exist.
    pub inputs: &'a [&'a str],
    pub outputs: &'a [&'a str],
    /// The body of the function; MLX writes the signature.
    pub source: &'a str,
    /// Code before the function: includes, helpers.
    pub header: &'a str,
    /// Copies inputs that are not row-major, so that the body can count through them.
    pub ensure_row_contiguous: bool,
    /// Metal: outputs are `device atomic<...>*`.
    pub atomic_outputs: bool,
    /// CUDA: bytes of dynamic shared memory.
    pub shared_memory: i32,
}

impl Default for KernelSource<'_> {
    fn default() -> Self {
        KernelSource {
            name: "",
            inputs: &[],
            outputs: &[],
            source: "",
            header: "",
            ensure_row_contiguous: true,
            atomic_outputs: false,
            shared_memory: 0,
        }
    }
}

/// A value for a template parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    Dtype(Dtype),
    Int(i32),
    Bool(bool),
}

/// One launch of a kernel.
#[derive(Debug, Clone, Default)]
pub struct Launch<'a> {
    /// Shape and dtype of each output.
    pub outputs: Vec<(Shape, Dtype)>,
    /// Threads in all, in x, y and z.
    pub grid: [i32; 3],
    /// Threads of one group.
    pub threadgroup: [i32; 3],
    pub template: &'a [(&'a str, Template)],
    /// What the outputs hold before the kernel runs.
    pub init_value: Option<f32>,
    /// Prints the generated source.
    pub verbose: bool,
}

/// Raw handle of either backend.
enum Raw {
    Metal(sys::mlx_fast_metal_kernel),
    Cuda(sys::mlx_fast_cuda_kernel),
}

/// A kernel of [`metal_kernel`] or [`cuda_kernel`].
pub struct Kernel {
    raw: Raw,
    name: String,
    counts: (usize, usize),
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({}, {} inputs, {} outputs)", self.name, self.counts.0, self.counts.1)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once
        unsafe {
            match self.raw {
                Raw::Metal(k) => sys::mlx_fast_metal_kernel_free(k),
                Raw::Cuda(k) => sys::mlx_fast_cuda_kernel_free(k),
            }
        }
    }
}

fn text(op: &str, s: &str) -> Result<CString> {
    CString::new(s).map_err(|_| Error::op(op, "a NUL byte in a kernel's text"))
}

/// An owned vector of names.
struct Names(sys::mlx_vector_string);

impl Names {
    fn new(op: &str, names: &[&str]) -> Result<Self> {
        let list = names.iter().map(|n| identifier(op, n)).collect::<Result<Vec<_>>>()?;
        let mut raw: Vec<*const c_char> = list.iter().map(|n| n.as_ptr()).collect();
        // SAFETY: pointer and length of a live vector of strings, which C copies
        Ok(Names(unsafe { sys::mlx_vector_string_new_data(raw.as_mut_ptr(), raw.len()) }))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once
        unsafe { sys::mlx_vector_string_free(self.0) };
    }
}

fn identifier(op: &str, name: &str) -> Result<CString> {
    let good = |(i, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || i > 0 && c.is_ascii_digit();
    if name.is_empty() || !name.chars().enumerate().all(good) {
        return Err(Error::op(op, format!("{name:?} is not an identifier")));
    }
    text(op, name)
}

/// A kernel in the Metal shading language (`mx.fast.metal_kernel`).
///
/// ```no_run
/// # use mlx::{self as mx, Dtype, fast::{KernelSource, Launch, Template, metal_kernel}};
/// let exp = metal_kernel(KernelSource {
///     name: "my_exp",
///     inputs: &["x"],
///     outputs: &["y"],
///     source: "uint i = thread_position_in_grid.x; y[i] = metal::exp(x[i]);",
///     ..Default::default()
/// })?;
/// let x = mx::ones([64], Dtype::Float32);
/// let launch = Launch {
///     outputs: vec![(x.shape().into(), x.dtype())],
///     grid: [64, 1, 1],
///     threadgroup: [32, 1, 1],
///     ..Default::default()
/// };
/// // SAFETY: 64 threads, each reads and writes one of 64 elements
/// let y = unsafe { exp.call(&[&x], &launch) };
/// # Ok::<(), mx::Error>(())
/// ```
///
/// # Errors
/// If Metal is not there, or a name is not an identifier.
pub fn metal_kernel(source: KernelSource<'_>) -> Result<Kernel> {
    let op = "metal_kernel";
    let (name, inputs, outputs, body, header) = parts(op, &source)?;
    if !crate::metal_is_available() {
        return Err(Error::Unavailable(format!("{op} {}: Metal is not available", source.name)));
    }
    // SAFETY: valid strings and vectors, which C copies
    let raw = unsafe {
        sys::mlx_fast_metal_kernel_new(
            name.as_ptr(),
            inputs.0,
            outputs.0,
            body.as_ptr(),
            header.as_ptr(),
            source.ensure_row_contiguous,
            source.atomic_outputs,
        )
    };
    made(op, &source, raw.ctx.is_null(), Raw::Metal(raw))
}

/// A kernel in CUDA C++ (`mx.fast.cuda_kernel`).
///
/// # Errors
/// If CUDA is not there, or a name is not an identifier.
pub fn cuda_kernel(source: KernelSource<'_>) -> Result<Kernel> {
    let op = "cuda_kernel";
    let (name, inputs, outputs, body, header) = parts(op, &source)?;
    if !crate::cuda_is_available() {
        return Err(Error::Unavailable(format!("{op} {}: CUDA is not available", source.name)));
    }
    // SAFETY: valid strings and vectors, which C copies
    let raw = unsafe {
        sys::mlx_fast_cuda_kernel_new(
            name.as_ptr(),
            inputs.0,
            outputs.0,
            body.as_ptr(),
            header.as_ptr(),
            source.ensure_row_contiguous,
            source.shared_memory,
        )
    };
    made(op, &source, raw.ctx.is_null(), Raw::Cuda(raw))
}

fn parts(op: &str, s: &KernelSource<'_>) -> Result<(CString, Names, Names, CString, CString)> {
    ffi::init();
    if s.outputs.is_empty() {
        return Err(Error::op(op, "a kernel needs an output"));
    }
    let names = (Names::new(op, s.inputs)?, Names::new(op, s.outputs)?);
    Ok((identifier(op, s.name)?, names.0, names.1, text(op, s.source)?, text(op, s.header)?))
}

fn made(op: &str, s: &KernelSource<'_>, null: bool, raw: Raw) -> Result<Kernel> {
    if null {
        return Err(Error::op(op, ffi::take_message()));
    }
    Ok(Kernel { raw, name: s.name.into(), counts: (s.inputs.len(), s.outputs.len()) })
}

/// Sets up a launch and runs the kernel with the functions of one backend.
macro_rules! apply {
    ($kernel:expr, $inputs:expr, $launch:expr, $op:expr, $new:ident $free:ident $output:ident $grid:ident $group:ident
     $init:ident $verbose:ident $dtype:ident $int:ident $bool:ident $apply:ident) => {{
        let vector = VectorArray::from_arrays($inputs.iter().copied());
        let [gx, gy, gz] = $launch.grid;
        let [tx, ty, tz] = $launch.threadgroup;
        // SAFETY: the configuration is made and freed here; pointers and lengths of live values
        unsafe {
            let config = sys::$new();
            let mut failed = 0;
            for (shape, dtype) in &$launch.outputs {
                failed |= sys::$output(config, shape.as_ptr(), shape.len(), dtype.raw());
            }
            failed |= sys::$grid(config, gx, gy, gz) | sys::$group(config, tx, ty, tz);
            if let Some(v) = $launch.init_value {
                failed |= sys::$init(config, v);
            }
            failed |= sys::$verbose(config, $launch.verbose);
            for (name, value) in $launch.template {
                let name = identifier($op, name).unwrap_or_else(|e| crate::error::raise(e));
                failed |= match *value {
                    Template::Dtype(d) => sys::$dtype(config, name.as_ptr(), d.raw()),
                    Template::Int(i) => sys::$int(config, name.as_ptr(), i),
                    Template::Bool(b) => sys::$bool(config, name.as_ptr(), b),
                };
            }
            if failed != 0 {
                sys::$free(config);
                refuse($op, ffi::take_message());
            }
            let out =
                crate::catch(|| ffi::op_many($op, $inputs, |res, s| sys::$apply(res, $kernel, vector.raw, config, s)));
            sys::$free(config);
            out.unwrap_or_else(|e| crate::error::raise(e))
        }
    }};
}

impl Kernel {
    /// The outputs of one launch, as lazy arrays.
    ///
    /// # Safety
    /// Nobody checks the body: for this launch it stays within its inputs and outputs.
    #[track_caller]
    pub unsafe fn call(&self, inputs: &[&Array], launch: &Launch<'_>) -> Vec<Array> {
        let op = self.name.as_str();
        if (inputs.len(), launch.outputs.len()) != self.counts {
            refuse(op, format!("{} inputs and {} outputs for {self:?}", inputs.len(), launch.outputs.len()));
        }
        if launch.grid.iter().chain(&launch.threadgroup).any(|&n| n < 1) {
            refuse(op, format!("grid {:?} with groups of {:?}", launch.grid, launch.threadgroup));
        }
        for (shape, _) in &launch.outputs {
            crate::ops::check_shape(op, shape);
        }
        match self.raw {
            Raw::Metal(k) => apply!(k, inputs, launch, op,
                mlx_fast_metal_kernel_config_new mlx_fast_metal_kernel_config_free
                mlx_fast_metal_kernel_config_add_output_arg mlx_fast_metal_kernel_config_set_grid
                mlx_fast_metal_kernel_config_set_thread_group mlx_fast_metal_kernel_config_set_init_value
                mlx_fast_metal_kernel_config_set_verbose mlx_fast_metal_kernel_config_add_template_arg_dtype
                mlx_fast_metal_kernel_config_add_template_arg_int mlx_fast_metal_kernel_config_add_template_arg_bool
                mlx_fast_metal_kernel_apply),
            Raw::Cuda(k) => apply!(k, inputs, launch, op,
                mlx_fast_cuda_kernel_config_new mlx_fast_cuda_kernel_config_free
                mlx_fast_cuda_kernel_config_add_output_arg mlx_fast_cuda_kernel_config_set_grid
                mlx_fast_cuda_kernel_config_set_thread_group mlx_fast_cuda_kernel_config_set_init_value
                mlx_fast_cuda_kernel_config_set_verbose mlx_fast_cuda_kernel_config_add_template_arg_dtype
                mlx_fast_cuda_kernel_config_add_template_arg_int mlx_fast_cuda_kernel_config_add_template_arg_bool
                mlx_fast_cuda_kernel_apply),
        }
    }
}

/// A scalar argument of [`precompiled_cuda_kernel`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KernelScalar {
    Bool(bool),
    Int(i32),
    Float(f32),
}

/// A launch of CUDA machine code (cubin or PTX) as a node of the graph (`mx.fast.precompiled_cuda_kernel`): inputs,
/// outputs and scalars are the kernel's arguments, in this order.
///
/// # Safety
/// The kernel takes these arguments and stays within its inputs and outputs for this launch.
#[track_caller]
pub unsafe fn precompiled_cuda_kernel(
    name: &str,
    image: &[u8],
    inputs: &[&Array],
    scalars: &[KernelScalar],
    launch: &Launch<'_>,
    shared_memory: i32,
    ensure_row_contiguous: bool,
) -> Vec<Array> {
    let op = "precompiled_cuda_kernel";
    let entry = text(op, name).unwrap_or_else(|e| crate::error::raise(e));
    if !crate::cuda_is_available() {
        crate::error::raise(Error::Unavailable(format!("{op} {name}: CUDA is not available")));
    }
    if launch.grid.iter().chain(&launch.threadgroup).any(|&n| n < 1) || launch.outputs.is_empty() {
        refuse(op, format!("grid {:?} with groups of {:?}", launch.grid, launch.threadgroup));
    }
    let vector = VectorArray::from_arrays(inputs.iter().copied());
    launch.outputs.iter().for_each(|(shape, _)| crate::ops::check_shape(op, shape));
    let shapes: Vec<_> = launch.outputs.iter().map(|o| o.0.as_ptr()).collect();
    let ndims: Vec<_> = launch.outputs.iter().map(|o| o.0.len()).collect();
    let dtypes: Vec<_> = launch.outputs.iter().map(|o| o.1.raw()).collect();
    let scalars: Vec<_> = scalars
        .iter()
        .map(|s| match *s {
            KernelScalar::Bool(b) => sys::mlxs_scalar { kind: 0, integer: b as i32, real: 0.0 },
            KernelScalar::Int(integer) => sys::mlxs_scalar { kind: 1, integer, real: 0.0 },
            KernelScalar::Float(real) => sys::mlxs_scalar { kind: 2, integer: 0, real },
        })
        .collect();
    let init = launch.init_value.as_ref().map_or(std::ptr::null(), |v| v as *const f32);
    // SAFETY: everything passed lives through the call and has the lengths given; the kernel's side is the caller's
    ffi::op_many(op, inputs, |res, s| unsafe {
        sys::mlxs_precompiled_cuda_kernel(
            res,
            entry.as_ptr(),
            image.as_ptr().cast(),
            image.len(),
            vector.raw,
            shapes.as_ptr(),
            ndims.as_ptr(),
            dtypes.as_ptr(),
            shapes.len(),
            scalars.as_ptr(),
            scalars.len(),
            launch.grid.as_ptr(),
            launch.threadgroup.as_ptr(),
            shared_memory,
            init,
            ensure_row_contiguous,
            s,
        )
    })
}
