//! Rows of x as a GEMV wants them: widened, permuted to meet the slots of packed words, with the sum of each group for the biases.

use crate::data::Floats;
use crate::decode::widen;
use crate::isa::{Isa, Kernel};
use crate::quant::Matrix;
use crate::scratch::Temp;
use crate::simd::{FP4, Simd, bits, transpose};

/// How x is laid out for a GEMV, and how big one row's scratch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// f32 in order.
    Plain,
    /// f32: for each block of N words, the elements in the first slot of the words, then those in the second, ...; for integers
    /// each slot is scaled by the power of two that undoes its position in the word.
    Slots { code: u32 },
    /// bf16: as the nibbles of the sixteen-bit halves of words come out.
    Nibbles,
}

/// Everything about x that a GEMV needs, for all rows of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub layout: Layout,
    /// Per row `x_len` floats, then `sums_len` floats with the sum of x over each group.
    pub x_len: usize,
    pub sums_len: usize,
}

impl Prepared {
    pub fn new(isa: Isa, w: &Matrix<'_>, x_bf16: bool) -> Prepared {
        let layout = match w {
            Matrix::Dense { .. } => Layout::Plain,
            Matrix::Quantized(q) => match q.mode.code() {
                4 | FP4 if x_bf16 && isa.dots_bf16() => Layout::Nibbles,
                code @ (2 | 4 | 8 | FP4) => Layout::Slots { code },
                _ => Layout::Plain,
            },
        };
        let n = isa.lanes();
        let block = match layout {
            Layout::Plain => n,
            Layout::Slots { code } => n * 32 / bits(code),
            Layout::Nibbles => 128,
        };
        let x_len = w.cols().next_multiple_of(block);
        let sums_len = match w {
            Matrix::Dense { .. } => 0,
            Matrix::Quantized(q) => q.row_groups().next_multiple_of(16) + 16,
        };
        Prepared { layout, x_len, sums_len }
    }
    pub fn row_len(&self) -> usize {
        self.x_len + self.sums_len
    }
}

/// Lay out one row of x.
pub(crate) struct Prepare<'a> {
    pub prepared: Prepared,
    pub group: usize,
    pub x: Floats<'a>,
    pub from: usize,
    pub k: usize,
    pub dst: *mut f32,
}

impl Kernel for Prepare<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let p = self.prepared;
            let sums = self.dst.add(p.x_len);
            if p.layout == Layout::Plain && p.sums_len == 0 {
                widen::<S>(self.x, self.from, self.k, self.dst);
                return std::slice::from_raw_parts_mut(self.dst.add(self.k), p.x_len - self.k).fill(0.0);
            }
            let mut temp = Temp::new(p.x_len);
            let plain = temp.ptr();
            {
                widen::<S>(self.x, self.from, self.k, plain);
                std::slice::from_raw_parts_mut(plain.add(self.k), p.x_len - self.k).fill(0.0);
                for g in 0..p.sums_len {
                    let at = g * self.group;
                    let mut acc = S::splat(0.0);
                    if at < self.k {
                        for i in (0..self.group).step_by(S::N) {
                            acc = S::add(acc, S::load(plain.add(at + i)));
                        }
                    }
                    *sums.add(g) = S::sum(acc);
                }
                match p.layout {
                    Layout::Plain => std::ptr::copy_nonoverlapping(plain, self.dst, p.x_len),
                    Layout::Slots { code } => slots::<S>(plain, code, p.x_len, self.dst),
                    Layout::Nibbles => {
                        let dst = self.dst as *mut u16;
                        for b in (0..p.x_len).step_by(128) {
                            for i in 0..4 {
                                for u in 0..32 {
                                    *dst.add(b + i * 32 + u) = ((*plain.add(b + 4 * u + i)).to_bits() >> 16) as u16;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn slots<S: Simd>(plain: *const f32, code: u32, len: usize, dst: *mut f32) {
    unsafe {
        let bits = bits(code);
        let per = 32 / bits;
        for b in (0..len).step_by(S::N * per) {
            let (src, dst) = (plain.add(b), dst.add(b));
            if per.is_multiple_of(8) {
                transpose::<S>(src.cast(), per, dst.cast(), S::N, S::N, per);
            } else {
                for j in 0..S::N {
                    for i in 0..per {
                        *dst.add(i * S::N + j) = *src.add(j * per + i);
                    }
                }
            }
            if code == FP4 {
                continue; // values come from a table
            }
            // the last slot is shifted down, the others keep their place in the word
            for i in 0..per - 1 {
                let scale = f32::from_bits(((127 - bits * i) as u32) << 23);
                S::store(dst.add(i * S::N), S::mul(S::load(dst.add(i * S::N)), S::splat(scale)));
            }
        }
    }
}
