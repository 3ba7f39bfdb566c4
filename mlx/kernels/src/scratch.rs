//! Per-thread scratch memory that outlives a call, so that short kernels don't pay for allocation.

use crate::data::{DType, Floats, FloatsMut};
use std::cell::RefCell;

thread_local!(static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) });

/// Largest buffer kept between calls, in floats (16 MiB).
const KEEP: usize = 4 << 20;

/// Floats of arbitrary content, aligned to 64 bytes; given back to the thread when dropped. Nested ones come back in the
/// order in which they are taken again.
pub(crate) struct Temp {
    all: Vec<f32>,
    skip: usize,
    len: usize,
}

impl Temp {
    pub fn new(len: usize) -> Temp {
        let mut all = KEPT.with_borrow_mut(|k| k.pop()).unwrap_or_default();
        if all.len() < len + 16 {
            all.resize(len + 16, 0.0);
        }
        let skip = (all.as_ptr() as usize).wrapping_neg() % 64 / 4;
        Temp { all, skip, len }
    }
    pub fn ptr(&mut self) -> *mut f32 {
        self.slice().as_mut_ptr()
    }
    pub fn as_ptr(&self) -> *const f32 {
        self.all[self.skip..].as_ptr()
    }
    pub fn slice(&mut self) -> &mut [f32] {
        &mut self.all[self.skip..self.skip + self.len]
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.all.len() <= KEEP {
            let all = std::mem::take(&mut self.all);
            KEPT.with_borrow_mut(|k| k.push(all));
        }
    }
}

/// Numbers that one kernel leaves to the next, in memory that this thread keeps; of arbitrary content at first.
pub struct Between {
    temp: Temp,
    len: usize,
    dtype: DType,
}

impl Between {
    pub fn new(len: usize, dtype: DType) -> Between {
        Between { temp: Temp::new(len), len, dtype }
    }
    pub fn floats(&self) -> Floats<'_> {
        // SAFETY: the scratch has four bytes for each number
        unsafe { Floats::from_raw(self.temp.as_ptr().cast(), self.len, self.dtype) }
    }
    pub fn floats_mut(&mut self) -> FloatsMut<'_> {
        // SAFETY: as above
        unsafe { FloatsMut::from_raw(self.temp.ptr().cast(), self.len, self.dtype) }
    }
}
