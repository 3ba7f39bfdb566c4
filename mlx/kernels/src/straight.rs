//! Products with a matrix stored `[K, N]`: decoded rows already are panels, so x is met in order.

use crate::data::{Floats, Out, Scratch};
use crate::decode::{matrix_row, widen};
use crate::gemm::tile;
use crate::isa::{Isa, Kernel};
use crate::pool::parallel;
use crate::quant::Matrix;
use crate::scratch::Temp;
use crate::simd::{Simd, narrow_row, with_elem};

/// Columns of a block: a multiple of every group.
const COLS: usize = 128;
/// Rows of w decoded at a time.
const DEPTH: usize = 128;
/// Rows of x in a tile.
const ROWS: usize = 4;

/// # Safety
/// `x` holds `m * w.rows()`, `out` holds `m * w.cols()`.
pub unsafe fn run(isa: Isa, x: Floats<'_>, m: usize, w: &Matrix<'_>, out: Out) {
    let (k, n) = (w.rows(), w.cols());
    let mut wide = Temp::new(m * k);
    let xs = Scratch(wide.ptr());
    parallel(m.div_ceil(16), |i| {
        let (a, b) = (i * 16, (i * 16 + 16).min(m));
        // SAFETY: rows of x inside; each task has its own rows of the scratch.
        unsafe { isa.run(Widen { x, from: a * k, n: (b - a) * k, dst: xs.at(a * k) }) }
    });
    parallel(n.div_ceil(COLS), |i| {
        let n0 = i * COLS;
        // SAFETY: each task writes its own columns.
        unsafe { isa.run(Block { w, x: xs.at(0), m, n0, n1: (n0 + COLS).min(n), out }) }
    });
}

struct Widen<'a> {
    x: Floats<'a>,
    from: usize,
    n: usize,
    dst: *mut f32,
}

impl Kernel for Widen<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe { widen::<S>(self.x, self.from, self.n, self.dst) }
    }
}

struct Block<'a> {
    w: &'a Matrix<'a>,
    x: *const f32,
    m: usize,
    n0: usize,
    n1: usize,
    out: Out,
}

impl Kernel for Block<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            let (k, n, nn) = (self.w.rows(), self.w.cols(), self.n1 - self.n0);
            let c_len = self.m * COLS;
            let mut temp = Temp::new(c_len + DEPTH * COLS + 64);
            temp.slice().fill(0.0);
            let c = temp.ptr();
            let panel = c.add(c_len);
            let small = panel.add(DEPTH * COLS);
            let mut k0 = 0;
            while k0 < k {
                let kc = DEPTH.min(k - k0);
                for r in 0..kc {
                    matrix_row::<S>(self.w, k0 + r, self.n0, nn, small, panel.add(r * COLS));
                }
                let mut i = 0;
                while i < self.m {
                    let x = self.x.add(i * k + k0);
                    let mut j = 0;
                    while j < nn {
                        let (b, c) = (panel.add(j), c.add(i * COLS + j));
                        if self.m - i >= ROWS {
                            cell::<S, ROWS>(x, k, b, kc, c);
                        } else {
                            for r in 0..self.m - i {
                                cell::<S, 1>(x.add(r * k), k, b, kc, c.add(r * COLS));
                            }
                        }
                        j += 2 * S::N;
                    }
                    i += ROWS;
                }
                k0 += DEPTH;
            }
            let out = self.out;
            for i in 0..self.m {
                let at = i * n + self.n0;
                with_elem!(out.dtype, T => narrow_row::<S, T>(c.add(i * COLS), out.at(at).cast(), nn));
            }
        }
    }
}

#[inline(always)]
unsafe fn cell<S: Simd, const M: usize>(x: *const f32, ldx: usize, b: *const f32, k: usize, c: *mut f32) {
    unsafe {
        let mut acc = [[S::splat(0.0); 2]; M];
        for m in 0..M {
            for v in 0..2 {
                acc[m][v] = S::load(c.add(m * COLS + v * S::N));
            }
        }
        tile::<S, M, 2>(x, ldx, 1, b, COLS, k, &mut acc);
        for m in 0..M {
            for v in 0..2 {
                S::store(c.add(m * COLS + v * S::N), acc[m][v]);
            }
        }
    }
}
