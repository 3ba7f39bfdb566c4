//! Operands of a running kernel.

use crate::Dtype;
use mlx_kernels::{DType, Floats, FloatsMut, View4};
use mlx_sys as sys;
use std::marker::PhantomData;

/// One operand: evaluated, alive while the kernel runs.
pub(super) struct View<'a> {
    raw: sys::mlxs_view,
    _life: PhantomData<&'a ()>,
}

impl<'a> View<'a> {
    pub fn new(raw: &'a sys::mlxs_view) -> Self {
        View { raw: *raw, _life: PhantomData }
    }
    pub fn shape(&self) -> &'a [i32] {
        if self.raw.ndim <= 0 {
            return &[];
        }
        // SAFETY: the shim passes `ndim` entries that live as long as the view
        unsafe { std::slice::from_raw_parts(self.raw.shape, self.raw.ndim as usize) }
    }
    pub fn strides(&self) -> &'a [i64] {
        if self.raw.ndim <= 0 {
            return &[];
        }
        // SAFETY: as above
        unsafe { std::slice::from_raw_parts(self.raw.strides, self.raw.ndim as usize) }
    }
    pub fn dtype(&self) -> Dtype {
        Dtype::from_raw(self.raw.dtype)
    }
    pub fn size(&self) -> usize {
        self.shape().iter().map(|&d| d.max(0) as usize).product()
    }
    /// Elements from the first to the last in memory; strides must not be negative.
    fn span(&self) -> usize {
        if self.size() == 0 {
            return 0;
        }
        1 + self.shape().iter().zip(self.strides()).map(|(&d, &s)| (d as usize - 1) * s.max(0) as usize).sum::<usize>()
    }
    fn kind(&self) -> Result<DType, String> {
        match self.dtype() {
            Dtype::Float32 => Ok(DType::F32),
            Dtype::Float16 => Ok(DType::F16),
            Dtype::Bfloat16 => Ok(DType::BF16),
            other => Err(format!("{other} is not a kernel type")),
        }
    }
    /// The bytes of a row-contiguous operand.
    pub fn bytes(&self) -> &'a [u8] {
        // SAFETY: evaluated data of that many elements, not written while the kernel runs
        unsafe { std::slice::from_raw_parts(self.raw.data.cast::<u8>(), self.span() * self.dtype().size()) }
    }
    pub fn floats(&self) -> Result<Floats<'a>, String> {
        // SAFETY: as above
        Ok(unsafe { Floats::from_raw(self.raw.data.cast(), self.span(), self.kind()?) })
    }
    /// The buffer of an output, which only this kernel writes.
    pub fn floats_mut(&self) -> Result<FloatsMut<'a>, String> {
        // SAFETY: fresh memory of the whole output
        Ok(unsafe { FloatsMut::from_raw(self.raw.data.cast(), self.size(), self.kind()?) })
    }
    /// The buffer of an input that this kernel writes.
    ///
    /// # Safety
    /// Nobody else reads or writes the buffer while the kernel runs.
    pub unsafe fn written_in_place(&self) -> Result<FloatsMut<'a>, String> {
        let mut expected = 1;
        for (&d, &s) in self.shape().iter().zip(self.strides()).rev() {
            if d != 1 && s != expected {
                return Err(format!("a buffer of strides {:?} cannot be written in place", self.strides()));
            }
            expected *= i64::from(d);
        }
        self.floats_mut()
    }
    /// The int32 or uint32 elements of a row-contiguous operand.
    pub fn indices(&self) -> Vec<u32> {
        self.bytes().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
    pub fn dims4(&self) -> Result<[usize; 4], String> {
        let d: Vec<usize> = self.shape().iter().map(|&d| d as usize).collect();
        d.try_into().map_err(|_| format!("rank 4 expected, shape is {:?}", self.shape()))
    }
    /// A rank-4 view where it lies; a layout that kernels do not take is copied into `store`.
    pub fn view4<'b>(&self, store: &'b mut Vec<u8>) -> Result<View4<'b>, String>
    where
        'a: 'b,
    {
        self.view(self.dims4()?, self.strides(), store)
    }
    /// As [`view4`](Self::view4) of [B, L, C], seen as [B, 1, L, C].
    pub fn view3<'b>(&self, store: &'b mut Vec<u8>) -> Result<View4<'b>, String>
    where
        'a: 'b,
    {
        let (&[b, l, c], &[sb, sl, sc]) = (self.shape(), self.strides()) else {
            return Err(format!("rank 3 expected, shape is {:?}", self.shape()));
        };
        self.view([b as usize, 1, l as usize, c as usize], &[sb, 0, sl, sc], store)
    }

    fn view<'b>(&self, dims: [usize; 4], strides: &[i64], store: &'b mut Vec<u8>) -> Result<View4<'b>, String>
    where
        'a: 'b,
    {
        let plain = strides.iter().all(|&s| s >= 0) && (strides[3] == 1 || dims[3] <= 1);
        if plain {
            let s = [strides[0] as usize, strides[1] as usize, strides[2] as usize, 1];
            return View4::new(self.floats()?, dims, s).map_err(|e| e.to_string());
        }
        self.copy_rows(store, dims, strides);
        // SAFETY: the copy holds all elements in row-major order
        let data = unsafe { Floats::from_raw(store.as_ptr(), self.size(), self.kind()?) };
        View4::contiguous(data, dims).map_err(|e| e.to_string())
    }

    fn copy_rows(&self, store: &mut Vec<u8>, dims: [usize; 4], s: &[i64]) {
        let item = self.dtype().size();
        store.reserve(self.size() * item);
        for a in 0..dims[0] {
            for b in 0..dims[1] {
                for c in 0..dims[2] {
                    for d in 0..dims[3] {
                        let at = a as i64 * s[0] + b as i64 * s[1] + c as i64 * s[2] + d as i64 * s[3];
                        // SAFETY: an element of the view, whatever the signs of its strides
                        let p = unsafe { self.raw.data.cast::<u8>().offset(at as isize * item as isize) };
                        store.extend_from_slice(unsafe { std::slice::from_raw_parts(p, item) });
                    }
                }
            }
        }
    }
    /// Strides of this operand broadcast to rank 4 (axes of size 1 do not move).
    pub fn broadcast4(&self) -> Result<[usize; 4], String> {
        let mut out = [0; 4];
        let skip = 4usize.checked_sub(self.shape().len()).ok_or("rank above 4")?;
        for (i, (&d, &s)) in self.shape().iter().zip(self.strides()).enumerate() {
            out[skip + i] = if d == 1 { 0 } else { usize::try_from(s).map_err(|_| "negative stride")? };
        }
        Ok(out)
    }
}
