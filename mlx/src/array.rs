//! The value: one handle to a node of MLX's lazy graph.

use crate::dtype::{Complex32, Dtype, Element};
use crate::error::{Error, Result, raise, refuse};
use crate::ffi;
use crate::scalar::Scalar;
use crate::shape::Shape;
use mlx_sys as sys;
use std::ffi::c_void;
use std::marker::PhantomData;

/// An n-dimensional array (`mlx.core.array`): lazy, immutable, cheap to clone.
///
/// A handle is 8 bytes and bound to its thread: MLX changes nodes while it evaluates them, without locks.
/// [`Frozen`](crate::Frozen) carries evaluated arrays across threads.
///
/// A live clone keeps MLX from reusing the buffer in place: write `cache = update(cache)`, not
/// `let new = update(&cache)` with `cache` still alive when `new` is evaluated.
///
/// ```
/// use mlx::Array;
/// let a = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2]);
/// let b = (&a + 1.0).sum(-1);
/// assert_eq!(b.to_vec::<f32>()?, [5.0, 9.0]);
/// # Ok::<(), mlx::Error>(())
/// ```
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<mlx::Array>();
/// ```
/// ```compile_fail
/// fn sync<T: Sync>() {}
/// sync::<mlx::Array>();
/// ```
#[repr(transparent)]
pub struct Array {
    pub(crate) raw: sys::mlx_array,
    _thread_bound: PhantomData<*const ()>,
}

impl Clone for Array {
    fn clone(&self) -> Self {
        let mut res = Array::null();
        // SAFETY: `self` is a valid handle, `res` is null: C allocates a new box
        unsafe { sys::mlx_array_set(&mut res.raw, self.raw) };
        res
    }
    fn clone_from(&mut self, source: &Self) {
        // SAFETY: both are valid handles
        unsafe { sys::mlx_array_set(&mut self.raw, source.raw) };
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: owned handle, freed once; null is allowed
        unsafe { sys::mlx_array_free(self.raw) };
    }
}

impl Array {
    /// A handle for C to fill.
    pub(crate) fn null() -> Self {
        Array { raw: sys::mlx_array { ctx: std::ptr::null_mut() }, _thread_bound: PhantomData }
    }

    /// Takes over a handle that C made.
    ///
    /// # Safety
    /// `raw` is a valid handle that nobody else frees, of a graph that belongs to this thread.
    pub unsafe fn from_raw(raw: sys::mlx_array) -> Self {
        Array { raw, _thread_bound: PhantomData }
    }

    /// The C handle, for calls into `mlx-sys`. Still owned by `self`.
    pub fn as_raw(&self) -> sys::mlx_array {
        self.raw
    }

    /// Copies `data` into an array; panics if `shape` does not have as many elements.
    #[track_caller]
    pub fn from_slice<T: Element>(data: &[T], shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        // SAFETY: elements are plain data; reading their bytes is fine (bool is 0 or 1)
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), std::mem::size_of_val(data)) };
        match Self::try_from_bytes(bytes, &shape, T::DTYPE) {
            Ok(a) => a,
            Err(_) => refuse("array", format!("{} elements do not fill shape {:?}", data.len(), &shape[..])),
        }
    }

    /// Copies little-endian element bytes into an array of `dtype`.
    ///
    /// # Errors
    /// If a dimension is negative or the byte count is not that of the shape. Bool bytes other than 0 become 1.
    pub fn try_from_bytes(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Self> {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
        if elements.and_then(|n| n.checked_mul(dtype.size())) != Some(bytes.len()) {
            return Err(Error::Data(format!("{} bytes do not fill shape {shape:?} of {dtype}", bytes.len())));
        }
        if dtype == Dtype::Bool && bytes.iter().any(|&b| b > 1) {
            let clean: Vec<u8> = bytes.iter().map(|&b| (b != 0) as u8).collect();
            return Ok(Self::from_raw_bytes(&clean, shape, dtype));
        }
        let mut array = Self::null();
        array.raw = Self::copy_in(bytes, shape, dtype);
        if array.raw.ctx.is_null() {
            return Err(Error::Data(format!("cannot make an array of {shape:?} {dtype}: {}", ffi::take_message())));
        }
        Ok(array)
    }

    /// As [`try_from_bytes`](Self::try_from_bytes) for sizes that are right by construction.
    pub(crate) fn from_raw_bytes(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Self {
        let raw = Self::copy_in(bytes, shape, dtype);
        if raw.ctx.is_null() {
            raise(Error::Data(ffi::take_message()));
        }
        Array { raw, _thread_bound: PhantomData }
    }

    fn copy_in(bytes: &[u8], shape: &[i32], dtype: Dtype) -> sys::mlx_array {
        ffi::init();
        // an empty slice's pointer may dangle, which C does not read
        // SAFETY: the caller checked that `bytes` holds exactly the elements of `shape`; C copies them
        unsafe { sys::mlx_array_new_data(bytes.as_ptr().cast(), shape.as_ptr(), shape.len() as i32, dtype.raw()) }
    }

    /// A 0-d array with an explicit dtype: `mx.array(value, dtype)`.
    #[track_caller]
    pub fn scalar(value: impl Into<Scalar>, dtype: Dtype) -> Self {
        let value = value.into();
        value.to_array(dtype).unwrap_or_else(|| refuse("array", format!("{value:?} does not fit into {dtype}")))
    }

    pub fn dtype(&self) -> Dtype {
        // SAFETY: valid handle
        Dtype::from_raw(unsafe { sys::mlx_array_dtype(self.raw) })
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[i32] {
        let n = self.ndim();
        if n == 0 {
            return &[];
        }
        // SAFETY: MLX never moves or changes a node's shape while a handle to it lives; `n` is its length
        unsafe { std::slice::from_raw_parts(sys::mlx_array_shape(self.raw), n) }
    }

    /// The dimensions as an array of a known rank: `let [b, l, d] = x.dims();`
    #[track_caller]
    pub fn dims<const N: usize>(&self) -> [i32; N] {
        match self.shape().try_into() {
            Ok(d) => d,
            Err(_) => refuse("dims", format!("rank {N} expected, shape is {:?}", self.shape())),
        }
    }

    /// One dimension; negative counts from the end.
    #[track_caller]
    pub fn dim(&self, axis: i32) -> i32 {
        let n = self.ndim() as i32;
        let i = if axis < 0 { axis + n } else { axis };
        if i < 0 || i >= n {
            refuse("dim", format!("axis {axis} is out of range for shape {:?}", self.shape()));
        }
        self.shape()[i as usize]
    }

    pub fn ndim(&self) -> usize {
        // SAFETY: valid handle
        unsafe { sys::mlx_array_ndim(self.raw) }
    }
    /// Number of elements.
    pub fn size(&self) -> usize {
        // SAFETY: valid handle
        unsafe { sys::mlx_array_size(self.raw) }
    }
    /// Bytes of one element.
    pub fn itemsize(&self) -> usize {
        self.dtype().size()
    }
    /// Bytes of all elements.
    pub fn nbytes(&self) -> usize {
        self.size() * self.itemsize()
    }

    /// Computes the array now.
    pub fn eval(&self) -> Result<()> {
        crate::eval([self])
    }

    /// Whether the value is there: reading it will not compute anything.
    pub fn is_available(&self) -> bool {
        let mut res = false;
        // SAFETY: valid handle and out-pointer
        unsafe { sys::_mlx_array_is_available(&mut res, self.raw) };
        res
    }

    /// The only element, converted to `T`; evaluates.
    ///
    /// # Errors
    /// If the array does not have exactly one element, or if the conversion would lose the kind of number
    /// (float to integer, complex to real, anything but bool to bool).
    pub fn item<T: Element>(&self) -> Result<T> {
        if self.size() != 1 {
            return Err(Error::Data(format!("item: one element expected, shape is {:?}", self.shape())));
        }
        Ok(self.to_vec::<T>()?[0])
    }

    /// All elements in row-major order, converted to `T`; evaluates.
    ///
    /// # Errors
    /// As [`item`](Self::item), and if evaluation fails.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let from = self.dtype();
        if from != T::DTYPE && !readable_as(from, T::DTYPE) {
            return Err(Error::Data(format!("cannot read {from} as {}: convert with astype first", T::DTYPE)));
        }
        let mut out = Vec::with_capacity(self.size());
        let converted;
        let source = if from == T::DTYPE {
            self
        } else {
            converted = crate::catch(|| on_cpu_if_f64(self, T::DTYPE))?;
            &converted
        };
        source.with_bytes(|bytes| out.extend(bytes.chunks_exact(T::DTYPE.size()).map(T::from_bytes)))?;
        Ok(out)
    }

    /// The elements as little-endian bytes in row-major order; evaluates.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.with_bytes(<[u8]>::to_vec)
    }

    /// Runs `f` on the row-major bytes of the evaluated array, without a copy when it is laid out that way.
    pub fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        if self.size() == 0 {
            return Ok(f(&[]));
        }
        self.eval()?;
        let mut contiguous = false;
        // SAFETY: valid handle and out-pointer
        unsafe { sys::_mlx_array_is_row_contiguous(&mut contiguous, self.raw) };
        let copy;
        let source = if contiguous {
            self
        } else {
            copy = crate::catch(|| crate::contiguous(self))?;
            copy.eval()?;
            &copy
        };
        // SAFETY: evaluated and row-contiguous, so that `nbytes` bytes lie at the data pointer while the handle lives
        unsafe {
            let data = sys::mlx_array_data_uint8(source.raw);
            if data.is_null() {
                return Err(Error::Data("array has no data".into()));
            }
            Ok(f(std::slice::from_raw_parts(data, source.nbytes())))
        }
    }

    /// The bytes of an array that is there and laid out row by row, without computing anything.
    pub(crate) fn available_bytes(&self) -> Option<&[u8]> {
        let mut contiguous = false;
        // SAFETY: valid handle and out-pointer
        unsafe { sys::_mlx_array_is_row_contiguous(&mut contiguous, self.raw) };
        if !contiguous || !self.is_available() {
            return None;
        }
        // SAFETY: available and row-contiguous, so that `nbytes` bytes lie at the data pointer while the handle lives
        unsafe {
            let data = sys::mlx_array_data_uint8(self.raw);
            (!data.is_null()).then(|| std::slice::from_raw_parts(data, self.nbytes()))
        }
    }

    /// Address of the graph node: equal for clones.
    pub fn id(&self) -> usize {
        let mut id = 0;
        // SAFETY: valid handle and out-pointer
        unsafe { sys::mlxs_array_id(&mut id, self.raw) };
        id
    }

    /// Whether elements lie in row-major order without gaps; false before evaluation is queued.
    pub(crate) fn is_row_contiguous(&self) -> bool {
        let (mut status, mut contiguous) = (0, false);
        // SAFETY: valid handle and out-pointers; the flag is set once the array is scheduled
        unsafe {
            sys::mlxs_array_status(&mut status, self.raw);
            if status != 0 {
                sys::_mlx_array_is_row_contiguous(&mut contiguous, self.raw);
            }
        }
        contiguous
    }

    /// How many arrays share this array's buffer, work in flight included; 0 before evaluation.
    /// A number for the buffer that holds this array, and the byte where it starts there; `None` if it is not computed or
    /// not row-contiguous.
    pub(crate) fn buffer(&self) -> Option<(usize, i64)> {
        let (mut buffer, mut offset) = (0, 0);
        // SAFETY: valid handle and out-pointers
        unsafe { sys::mlxs_array_buffer(&mut buffer, &mut offset, self.raw) };
        (buffer != 0).then_some((buffer, offset))
    }

    pub(crate) fn data_use_count(&self) -> usize {
        let mut n = 0;
        // SAFETY: valid handle and out-pointer
        unsafe { sys::mlxs_array_data_use_count(&mut n, self.raw) };
        n
    }

    /// How many handles and graph edges refer to this node.
    pub fn use_count(&self) -> usize {
        let mut n = 0;
        // SAFETY: valid handle and out-pointer
        unsafe { sys::mlxs_array_use_count(&mut n, self.raw) };
        n
    }
}

/// Widening within a kind, integer to float, and anything to complex are fine; the rest is for `astype`.
fn readable_as(from: Dtype, to: Dtype) -> bool {
    use Dtype::*;
    match (from, to) {
        (_, Complex64) => true,
        (Complex64, _) | (_, Bool) => false,
        (f, t) if f.is_float() => t.is_float(),
        _ => true,
    }
}

fn on_cpu_if_f64(a: &Array, to: Dtype) -> Array {
    if to == Dtype::Float64 || a.dtype() == Dtype::Float64 {
        return crate::with_device(crate::Device::Cpu, || a.astype(to));
    }
    a.astype(to)
}

impl<T: Element> From<&[T]> for Array {
    fn from(v: &[T]) -> Self {
        Array::from_slice(v, v.len())
    }
}
impl<T: Element> From<Vec<T>> for Array {
    fn from(v: Vec<T>) -> Self {
        Array::from_slice(&v, v.len())
    }
}
impl<T: Element, const N: usize> From<[T; N]> for Array {
    fn from(v: [T; N]) -> Self {
        Array::from_slice(&v, N)
    }
}

macro_rules! from_scalar {
    ($($t:ty),*) => { $( impl From<$t> for Array {
        fn from(v: $t) -> Self { Array::from_slice(&[v], ()) }
    } )* };
}
from_scalar!(bool, u8, u16, u32, u64, i8, i16, i32, i64, half::f16, half::bf16, f32, f64, Complex32);

impl std::fmt::Debug for Array {
    /// Shape and dtype; does not evaluate.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.raw.ctx.is_null() {
            return f.write_str("Array(null)");
        }
        write!(f, "Array({:?}, {})", self.shape(), self.dtype())
    }
}

impl std::fmt::Display for Array {
    /// The values as Python prints them; evaluates. `{:.3}` gives floats three digits (`mx.set_printoptions`).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Err(e) = self.eval() {
            return write!(f, "<{e}>");
        }
        // SAFETY: evaluated array; the string is copied before it is freed
        unsafe {
            let mut text = sys::mlx_string_new();
            let precision = f.precision().map_or(-1, |p| p.min(40) as i32);
            if sys::mlxs_array_tostring(&mut text, self.raw, precision) != 0 {
                return write!(f, "<{}>", ffi::take_message());
            }
            let result = f.write_str(&std::ffi::CStr::from_ptr(sys::mlx_string_data(text)).to_string_lossy());
            sys::mlx_string_free(text);
            result
        }
    }
}

/// Python's nested literals: `array!([[1.0, 2.0], [3.0, 4.0]])` is float32, integers are int32.
///
/// ```
/// let a = mlx::array!([[1, 2, 3], [4, 5, 6]]);
/// assert_eq!((a.shape(), a.dtype()), (&[2, 3][..], mlx::Dtype::Int32));
/// ```
#[macro_export]
macro_rules! array {
    ($value:expr) => {
        $crate::Literal::into_array($value)
    };
    ($value:expr, $dtype:expr) => {
        $crate::Literal::into_array($value).astype($dtype)
    };
}

/// A number or nested arrays of numbers, as [`array!`](crate::array!) takes them.
pub trait Literal {
    type Item: Element;
    fn write(self, shape: &mut Vec<i32>, depth: usize, out: &mut Vec<Self::Item>);
    fn into_array(self) -> Array
    where
        Self: Sized,
    {
        let (mut shape, mut out) = (Vec::new(), Vec::new());
        self.write(&mut shape, 0, &mut out);
        Array::from_slice(&out, shape)
    }
}

macro_rules! literal {
    ($($t:ty => $to:ty),*) => { $( impl Literal for $t {
        type Item = $to;
        fn write(self, _: &mut Vec<i32>, _: usize, out: &mut Vec<$to>) { out.push(self as $to) }
    } )* };
}
// an untyped float literal is f64 in Rust and float32 in Python
literal!(f32 => f32, f64 => f32, i32 => i32, i64 => i64, u8 => u8, u32 => u32, bool => bool);

impl<T: Literal, const N: usize> Literal for [T; N] {
    type Item = T::Item;
    fn write(self, shape: &mut Vec<i32>, depth: usize, out: &mut Vec<T::Item>) {
        if shape.len() == depth {
            shape.push(N as i32);
        }
        for v in self {
            v.write(shape, depth + 1, out);
        }
    }
}

/// The raw pointer of a null handle, for C arguments that "may be null".
pub(crate) const NULL: sys::mlx_array = sys::mlx_array { ctx: std::ptr::null_mut::<c_void>() };
