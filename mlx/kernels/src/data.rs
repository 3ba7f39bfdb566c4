//! Typed buffers that kernels read and write: an element type beside a pointer and a length, and a strided 4-D view over one.
//! Buffers may be unaligned (checkpoints are memory-mapped): kernels use unaligned loads throughout.

use crate::error::{Error, Result};
use half::{bf16, f16};
use std::marker::PhantomData;

/// Element type of a floating point buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

/// A borrowed buffer of floats in one of the three types.
#[derive(Debug, Clone, Copy)]
pub struct Floats<'a> {
    ptr: *const u8,
    len: usize,
    dtype: DType,
    life: PhantomData<&'a [u8]>,
}

// SAFETY: a shared borrow of plain numbers.
unsafe impl Send for Floats<'_> {}
unsafe impl Sync for Floats<'_> {}

impl<'a> Floats<'a> {
    /// A buffer from a raw pointer; alignment is not required.
    ///
    /// # Safety
    /// `ptr` must be readable for `len * dtype.size()` bytes during `'a`, and nobody may write there meanwhile.
    pub unsafe fn from_raw(ptr: *const u8, len: usize, dtype: DType) -> Self {
        Floats { ptr, len, dtype, life: PhantomData }
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }
    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Element `i` widened to f32 (slow: for tests and plain forms). `None` outside.
    pub fn get(&self, i: usize) -> Option<f32> {
        // SAFETY: i is inside.
        (i < self.len).then(|| unsafe { self.value(i) })
    }
    /// # Safety: `i < len`.
    pub(crate) unsafe fn value(&self, i: usize) -> f32 {
        unsafe {
            match self.dtype {
                DType::F32 => (self.ptr as *const f32).add(i).read_unaligned(),
                DType::F16 => (self.ptr as *const f16).add(i).read_unaligned().to_f32(),
                DType::BF16 => (self.ptr as *const bf16).add(i).read_unaligned().to_f32(),
            }
        }
    }
    /// Address of element `i`; only valid to read if `i < len`.
    pub(crate) fn at(&self, i: usize) -> *const u8 {
        self.ptr.wrapping_add(i * self.dtype.size())
    }
}

macro_rules! from_slice {
    ($($t:ty => $d:ident),*) => { $(
        impl<'a> From<&'a [$t]> for Floats<'a> {
            fn from(s: &'a [$t]) -> Self { Floats { ptr: s.as_ptr().cast(), len: s.len(), dtype: DType::$d, life: PhantomData } }
        }
        impl<'a> From<&'a Vec<$t>> for Floats<'a> {
            fn from(s: &'a Vec<$t>) -> Self { s.as_slice().into() }
        }
        impl<'a> From<&'a mut [$t]> for FloatsMut<'a> {
            fn from(s: &'a mut [$t]) -> Self { FloatsMut { ptr: s.as_mut_ptr().cast(), len: s.len(), dtype: DType::$d, life: PhantomData } }
        }
        impl<'a> From<&'a mut Vec<$t>> for FloatsMut<'a> {
            fn from(s: &'a mut Vec<$t>) -> Self { s.as_mut_slice().into() }
        }
    )* };
}
from_slice!(f32 => F32, f16 => F16, bf16 => BF16);

/// An exclusively borrowed buffer of floats; kernels write every element of the result's shape.
#[derive(Debug)]
pub struct FloatsMut<'a> {
    ptr: *mut u8,
    len: usize,
    dtype: DType,
    life: PhantomData<&'a mut [u8]>,
}

impl FloatsMut<'_> {
    /// A buffer from a raw pointer; alignment is not required, the content may be uninitialised.
    ///
    /// # Safety
    /// `ptr` must be writable for `len * dtype.size()` bytes during the borrow, and nobody else may touch it meanwhile.
    pub unsafe fn from_raw(ptr: *mut u8, len: usize, dtype: DType) -> Self {
        FloatsMut { ptr, len, dtype, life: PhantomData }
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }
    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    pub(crate) fn out(&mut self) -> Out {
        Out { ptr: self.ptr, dtype: self.dtype }
    }
}

/// Output pointer shared between threads that write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    ptr: *mut u8,
    pub dtype: DType,
}

// SAFETY: tasks write disjoint elements; the pool joins them before the borrow ends.
unsafe impl Send for Out {}
unsafe impl Sync for Out {}

impl Out {
    pub fn floats(ptr: *mut f32) -> Out {
        Out { ptr: ptr.cast(), dtype: DType::F32 }
    }
    pub fn at(&self, i: usize) -> *mut u8 {
        self.ptr.wrapping_add(i * self.dtype.size())
    }
}

/// Scratch memory shared between threads that write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Scratch<T>(pub *mut T);

// SAFETY: as for `Out`.
unsafe impl<T> Send for Scratch<T> {}
unsafe impl<T> Sync for Scratch<T> {}

impl<T> Scratch<T> {
    pub fn at(&self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }
}

/// A 4-D view `[A, B, C, D]` with element strides (0 broadcasts) over a buffer.
#[derive(Debug, Clone, Copy)]
pub struct View4<'a> {
    pub(crate) data: Floats<'a>,
    pub(crate) dims: [usize; 4],
    pub(crate) strides: [usize; 4],
}

impl<'a> View4<'a> {
    /// View with explicit element strides.
    ///
    /// # Errors
    /// [`Error::Short`] if any element of the view lies outside the buffer.
    pub fn new(data: Floats<'a>, dims: [usize; 4], strides: [usize; 4]) -> Result<Self> {
        check_span("view", data.len(), dims, strides)?;
        Ok(View4 { data, dims, strides })
    }
    /// Row-contiguous view.
    ///
    /// # Errors
    /// As [`View4::new`].
    pub fn contiguous(data: Floats<'a>, dims: [usize; 4]) -> Result<Self> {
        View4::new(data, dims, row_major(dims))
    }
    /// Dimensions.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }
    pub(crate) fn row(&self, a: usize, b: usize, c: usize) -> *const u8 {
        self.data.at(a * self.strides[0] + b * self.strides[1] + c * self.strides[2])
    }
    pub(crate) fn last_contiguous(&self, what: &'static str) -> Result<()> {
        if self.strides[3] == 1 || self.dims[3] <= 1 {
            return Ok(());
        }
        Err(Error::Unsupported { what, why: "the last axis must be contiguous" })
    }
}

/// A 4-D view that a kernel writes; no two elements share a place.
#[derive(Debug)]
pub struct View4Mut<'a> {
    pub(crate) data: FloatsMut<'a>,
    pub(crate) dims: [usize; 4],
    pub(crate) strides: [usize; 4],
}

impl<'a> View4Mut<'a> {
    /// View with explicit element strides; the last axis is contiguous.
    ///
    /// # Errors
    /// Elements outside the buffer, elements that share a place, a last axis that is not contiguous.
    pub fn new(data: FloatsMut<'a>, dims: [usize; 4], strides: [usize; 4]) -> Result<Self> {
        check_span("output view", data.len(), dims, strides)?;
        let mut axes: Vec<usize> = (0..4).filter(|i| dims[*i] > 1).collect();
        axes.sort_by_key(|i| strides[*i]);
        let mut span = 1;
        for i in axes {
            if strides[i] < span {
                return Err(Error::Unsupported { what: "output view", why: "elements share a place" });
            }
            span = strides[i].saturating_mul(dims[i]);
        }
        if dims[3] > 1 && strides[3] != 1 {
            return Err(Error::Unsupported { what: "output view", why: "the last axis must be contiguous" });
        }
        Ok(View4Mut { data, dims, strides })
    }
    /// Row-contiguous view.
    ///
    /// # Errors
    /// As [`View4Mut::new`].
    pub fn contiguous(data: FloatsMut<'a>, dims: [usize; 4]) -> Result<Self> {
        View4Mut::new(data, dims, row_major(dims))
    }
    pub(crate) fn rows(&mut self) -> (Out, [usize; 4]) {
        (self.data.out(), self.strides)
    }
}

fn row_major(dims: [usize; 4]) -> [usize; 4] {
    let mut strides = [1usize; 4];
    for i in (0..3).rev() {
        strides[i] = strides[i + 1].saturating_mul(dims[i + 1].max(1));
    }
    strides
}

pub(crate) fn check_span(what: &'static str, len: usize, dims: [usize; 4], strides: [usize; 4]) -> Result<()> {
    if dims.contains(&0) {
        return Ok(());
    }
    let last =
        dims.iter().zip(strides).try_fold(0usize, |s, (d, t)| (d - 1).checked_mul(t).and_then(|v| s.checked_add(v)));
    crate::error::room(what, last.and_then(|l| l.checked_add(1)), len)
}
